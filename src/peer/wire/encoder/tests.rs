//! What the encoder makes, what it costs, and when it lets a frame pass.

use super::*;
use crate::peer::wire::frame::Header;

fn encoder(window_log: u32, memory: usize) -> Encoder {
    let memory = Arc::new(Semaphore::new(memory / 1024));
    Encoder::new(window_log, memory, Arc::new(Workers::new(1)))
}

/// `payload` with room for a header.
fn buffer(payload: &[u8]) -> BytesMut {
    let mut buffer = BytesMut::from(&[0; HEADER][..]);
    buffer.extend_from_slice(payload);
    buffer
}

fn header(frame: &[u8]) -> Header {
    let header = Header::decode(frame[..HEADER].try_into().unwrap()).unwrap();
    assert_eq!(header.len, frame.len() - HEADER);
    header
}

/// Bytes that compress, `seed` making them different.
fn text(seed: u64, len: usize) -> Vec<u8> {
    let words = (0u64..).flat_map(|n| format!("{} ", (n * (seed + 7)) % 4099).into_bytes());
    words.take(len).collect()
}

fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    let mut stream = blake3::Hasher::new()
        .update(&seed.to_le_bytes())
        .finalize_xof();
    stream.fill(&mut bytes);
    bytes
}

const PATIENCE: Duration = Duration::from_secs(10);

#[test]
fn every_level_takes_at_most_the_memory_that_it_is_counted_with() {
    for window_log in limits::WIRE_WINDOW_LOG_LEAST..=limits::WIRE_WINDOW_LOG {
        for level in 1..=19 {
            let mut encoder = encoder(window_log, 1 << 30);
            encoder.encode(buffer(&text(1, limits::WIRE_FRAME)), Some(level), PATIENCE);
            let stream = encoder.stream.expect("a stream");
            let (taken, counted) = (stream.zstd.sizeof(), memory_of(level, window_log));
            assert!(
                taken <= counted,
                "{level}, {window_log}: {taken} > {counted}"
            );
        }
    }
}

#[test]
fn the_window_goes_on_from_frame_to_frame_past_raw_ones() {
    let mut encoder = encoder(21, 1 << 30);
    let half = noise(1, limits::WIRE_FRAME / 2);
    let first = encoder.encode(buffer(&half), Some(3), PATIENCE);
    let between = encoder.encode(buffer(&noise(2, 20_000)), None, PATIENCE);
    let again = encoder.encode(buffer(&half), Some(3), PATIENCE);
    assert_eq!(header(&first).kind, Kind::Begin);
    assert_eq!(header(&between).kind, Kind::Raw);
    assert_eq!(header(&again).kind, Kind::Continue);
    assert!(again.len() < 100, "{}", again.len());
}

#[test]
fn a_new_level_begins_anew_once_the_old_one_has_paid_for_its_window() {
    let mut encoder = encoder(21, 1 << 30);
    let mut kinds = Vec::new();
    for n in 0..40 {
        let level = if n == 0 { 3 } else { 1 };
        let frame = encoder.encode(buffer(&text(n, limits::WIRE_FRAME)), Some(level), PATIENCE);
        kinds.push(header(&frame).kind);
    }
    let held = limits::WIRE_LEVEL_HELD / limits::WIRE_FRAME;
    for (n, kind) in kinds.into_iter().enumerate() {
        assert_eq!(kind == Kind::Begin, n == 0 || n == held, "frame {n}");
    }
}

#[test]
fn what_does_not_compress_is_rarely_tried_and_what_follows_compresses_again() {
    let mut encoder = encoder(21, 1 << 30);
    let mut wire = 0;
    let mut tried = 0;
    for n in 0..100 {
        let frame = encoder.encode(buffer(&noise(n, limits::WIRE_FRAME)), Some(3), PATIENCE);
        wire += frame.len();
        tried += usize::from(header(&frame).kind != Kind::Raw);
    }
    assert!(tried <= 15, "{tried} of 100");
    assert!(wire < 100 * limits::WIRE_FRAME * 1001 / 1000, "{wire}");
    let compressed = (0..20).filter(|n| {
        let frame = encoder.encode(buffer(&text(*n, limits::WIRE_FRAME)), Some(3), PATIENCE);
        header(&frame).kind != Kind::Raw
    });
    assert!(compressed.count() >= 11);
}

#[test]
fn without_memory_or_a_free_thread_frames_go_raw() {
    let payload = text(1, 50_000);
    let frame = encoder(21, 1 << 20).encode(buffer(&payload), Some(3), PATIENCE);
    assert_eq!(header(&frame).kind, Kind::Raw);
    assert_eq!(&frame[HEADER..], payload);

    let mut encoder = encoder(21, 1 << 30);
    let workers = encoder.workers.clone();
    let turn = workers.turn(PATIENCE);
    let frame = encoder.encode(buffer(&payload), Some(3), Duration::from_millis(1));
    assert_eq!(header(&frame).kind, Kind::Raw);
    drop(turn);
    let frame = encoder.encode(buffer(&payload), Some(3), PATIENCE);
    assert_eq!(header(&frame).kind, Kind::Begin);
}

#[test]
fn memory_for_a_high_level_short_a_low_one_is_taken() {
    let memory = memory_of(1, 21);
    let mut encoder = encoder(21, memory);
    let frame = encoder.encode(buffer(&text(1, 100_000)), Some(19), PATIENCE);
    assert_eq!(header(&frame).kind, Kind::Begin);
    let level = encoder.stream.as_ref().map(|stream| stream.level);
    assert_eq!(level, Some(1));
    assert_eq!(encoder.memory.available_permits(), 0);
    let all = encoder.memory.clone();
    drop(encoder);
    assert_eq!(all.available_permits(), memory / 1024);
}
