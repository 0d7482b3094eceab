//! Frames taken apart, whoever made them.

use std::{sync::Arc, time::Duration};

use proptest::prelude::*;
use tokio::sync::Semaphore;
use zstd::zstd_safe::{CCtx, CParameter};

use super::*;
use crate::peer::wire::{
    encoder::{Encoder, Workers},
    frame::Header,
};

const WINDOW: u32 = 20;

/// All that comes out of `wire`, handed over in pieces of up to `piece` bytes.
fn decode(wire: &[u8], piece: usize) -> (Vec<u8>, io::Result<()>) {
    let mut reader = tokio_util::io::StreamReader::new(futures_util::stream::iter(
        wire.chunks(piece.max(1))
            .map(|chunk| Ok::<_, io::Error>(bytes::Bytes::copy_from_slice(chunk))),
    ));
    let mut decoder = Decoder::new(&mut reader, WINDOW);
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    runtime.unwrap().block_on(async {
        let mut out = BytesMut::new();
        let mut came = Vec::new();
        let result = loop {
            let read = decoder.read_buf(&mut out).await;
            let held = out.len();
            assert!(held <= limits::WIRE_FRAME, "{held} bytes of one frame");
            if let Some(stream) = &decoder.zstd.stream {
                assert!(stream.sizeof() <= memory_of(WINDOW), "{}", stream.sizeof());
            }
            match read {
                Ok(false) => break Ok(()),
                Ok(true) => {}
                Err(error) => break Err(error),
            }
            came.extend_from_slice(&out);
            out.clear();
        };
        if result.is_ok() {
            assert_eq!(decoder.wire_bytes(), wire.len() as u64);
        }
        (came, result)
    })
}

fn framed(parts: &[(Vec<u8>, Option<i32>)]) -> Vec<u8> {
    let memory = Arc::new(Semaphore::new(1 << 20));
    let mut encoder = Encoder::new(WINDOW, memory, Arc::new(Workers::new(1)));
    let mut wire = Vec::new();
    for (payload, level) in parts {
        let mut buffer = BytesMut::from(&[0; HEADER][..]);
        buffer.extend_from_slice(payload);
        wire.extend(encoder.encode(buffer, *level, Duration::from_secs(10)));
    }
    wire
}

fn frame(kind: Kind, payload: &[u8]) -> Vec<u8> {
    let len = payload.len();
    [&Header { kind, len }.encode()[..], payload].concat()
}

fn is_lie(wire: &[u8]) -> bool {
    let (_, result) = decode(wire, 4096);
    result.is_err_and(|error| error.kind() == io::ErrorKind::InvalidData)
}

/// `payload` in zstd over a window of `window_log`, flushed or ended.
fn zstd(payload: &[u8], window_log: u32, end: bool) -> Vec<u8> {
    let mut context = CCtx::create();
    context
        .set_parameter(CParameter::WindowLog(window_log))
        .unwrap();
    context
        .set_parameter(CParameter::ContentSizeFlag(false))
        .unwrap();
    let mut out = vec![0; payload.len() + 1024];
    let mut buffer = OutBuffer::around(&mut out[..]);
    let mut input = InBuffer::around(payload);
    while input.pos() < payload.len() {
        context.compress_stream(&mut buffer, &mut input).unwrap();
    }
    while match end {
        true => context.end_stream(&mut buffer).unwrap(),
        false => context.flush_stream(&mut buffer).unwrap(),
    } > 0
    {}
    let len = buffer.pos();
    out.truncate(len);
    out
}

fn part() -> impl Strategy<Value = (Vec<u8>, Option<i32>)> {
    let noise = proptest::collection::vec(any::<u8>(), 1..3000);
    let text = proptest::collection::vec(0u8..4, 1..30_000);
    (
        prop_oneof![noise, text],
        prop_oneof![Just(None), (1..=9i32).prop_map(Some)],
    )
}

proptest! {
    #[test]
    fn what_was_framed_comes_out_however_it_is_cut(
        parts in proptest::collection::vec(part(), 1..12),
        piece in 1usize..5000,
    ) {
        let whole: Vec<u8> = parts.iter().flat_map(|(payload, _)| payload.clone()).collect();
        let (came, result) = decode(&framed(&parts), piece);
        prop_assert!(result.is_ok());
        prop_assert!(came == whole);
    }

    #[test]
    fn random_bytes_never_panic_nor_take_more_than_is_allowed(
        bytes in proptest::collection::vec(any::<u8>(), 0..5000),
        kind in 0u8..3,
    ) {
        let _ = decode(&bytes, 1000);
        // With a right header in front, zstd gets to see them.
        let len = bytes.len().to_le_bytes();
        let mut wire = vec![kind, len[0], len[1], len[2]];
        if kind == 1 {
            wire[1..3].copy_from_slice(&(bytes.len() as u16 + 4).to_le_bytes());
            wire.extend(ZSTD_MAGIC);
        }
        wire.extend(bytes);
        let _ = decode(&wire, 1000);
    }

    #[test]
    fn a_damaged_answer_never_panics_nor_takes_more_than_is_allowed(
        parts in proptest::collection::vec(part(), 1..6),
        flips in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut wire = framed(&parts);
        for (at, byte) in flips {
            let at = at.index(wire.len());
            wire[at] = byte;
        }
        wire.truncate(cut.index(wire.len()) + 1);
        let _ = decode(&wire, 777);
    }
}

#[test]
fn an_answer_that_ends_within_a_frame_is_cut_off_and_no_lie() {
    let wire = framed(&[(vec![7; 5000], None), (vec![7; 5000], Some(3))]);
    for end in [2, 100, 5003, 5006, wire.len() - 1] {
        let (_, result) = decode(&wire[..end], 4096);
        let kind = result.expect_err("an end").kind();
        assert_eq!(kind, io::ErrorKind::UnexpectedEof, "{end}");
    }
}

#[test]
fn frames_that_break_a_rule_are_lies() {
    let good = zstd(&[7; 1000], WINDOW, false);
    assert!(!is_lie(&frame(Kind::Begin, &good)));
    // More than a frame may hold, a window larger than was agreed, a stream that ends.
    let bomb = zstd(&vec![0; limits::WIRE_FRAME + 1], WINDOW, false);
    assert!(is_lie(&frame(Kind::Begin, &bomb)));
    let wide = zstd(&[7; 1000], WINDOW + 1, false);
    assert!(is_lie(&frame(Kind::Begin, &wide)));
    let ended = zstd(&[7; 1000], WINDOW, true);
    assert!(is_lie(&frame(Kind::Begin, &ended)));
    // Going on with nothing begun; other formats; a frame that gives nothing.
    assert!(is_lie(&frame(Kind::Continue, &good)));
    let skippable = [&[0x50, 0x2a, 0x4d, 0x18, 4, 0, 0, 0, 1, 2, 3, 4][..], &good].concat();
    assert!(is_lie(&frame(Kind::Begin, &skippable)));
    let legacy = [&[0x27, 0xb5, 0x2f, 0xfd][..], &good].concat();
    assert!(is_lie(&frame(Kind::Begin, &legacy)));
    assert!(is_lie(&frame(Kind::Begin, &good[..6])));
    assert!(is_lie(&[0, 0, 0, 0]));
    assert!(is_lie(&[9, 1, 0, 0, 1]));
}
