//! Decompression of NARs, bounded in memory and in what comes out.

use std::io;

use async_compression::{
    codecs::zstd::params::DParameter,
    tokio::bufread::{BrotliDecoder, BzDecoder, XzDecoder, ZstdDecoder},
};
use bytes::Bytes;
use futures_util::{Stream, StreamExt as _, TryStreamExt as _, stream};
use tokio::io::{AsyncRead, BufReader};
use tokio_util::io::{ReaderStream, StreamReader};

use crate::{limits, transfer::whole::NarStream};

/// How a cache compresses a NAR.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Codec {
    /// Not at all.
    None,
    /// XZ.
    Xz,
    /// Zstandard.
    Zstd,
    /// Brotli.
    Brotli,
    /// Bzip2.
    Bzip2,
}

/// Decompresses `body` to at most `nar_size` bytes.
///
/// An error ends it: where more would come out, where the decoder wants more memory than it may
/// have, and where so much goes in that what is left of the NAR can't be worth it.
pub(super) fn decode<S>(body: S, codec: Codec, nar_size: u64) -> NarStream
where
    S: Stream<Item = io::Result<Bytes>> + Send + 'static,
{
    let most = nar_size
        .saturating_add(nar_size / 8)
        .saturating_add(limits::UPSTREAM_OVERHEAD);
    let body = bounded(body, most).boxed();
    let compressed = BufReader::with_capacity(limits::UPSTREAM_PIECE, StreamReader::new(body));
    match codec {
        Codec::None => pieces(compressed, nar_size),
        Codec::Xz => {
            let mut decoder =
                XzDecoder::with_mem_limit(compressed, limits::UPSTREAM_DECODER_MEMORY);
            decoder.multiple_members(true);
            pieces(decoder, nar_size)
        }
        Codec::Zstd => {
            let window = DParameter::window_log_max(limits::UPSTREAM_WINDOW_LOG);
            let mut decoder = ZstdDecoder::with_params(compressed, &[window]);
            decoder.multiple_members(true);
            pieces(decoder, nar_size)
        }
        Codec::Brotli => {
            let standard = stream::once(refuse_large_window(compressed))
                .map_ok(move |compressed| pieces(BrotliDecoder::new(compressed), nar_size))
                .try_flatten();
            standard.boxed()
        }
        Codec::Bzip2 => {
            let mut decoder = BzDecoder::new(compressed);
            decoder.multiple_members(true);
            pieces(decoder, nar_size)
        }
    }
}

fn pieces(reader: impl AsyncRead + Send + 'static, nar_size: u64) -> NarStream {
    let pieces = ReaderStream::with_capacity(reader, limits::UPSTREAM_PIECE);
    bounded(pieces, nar_size).boxed()
}

/// Passes on at most `most` bytes; one more is an error.
fn bounded<S>(pieces: S, most: u64) -> impl Stream<Item = io::Result<Bytes>> + Send + 'static
where
    S: Stream<Item = io::Result<Bytes>> + Send + 'static,
{
    let mut left = most;
    pieces.map(move |piece| {
        let piece = piece?;
        left = left
            .checked_sub(piece.len() as u64)
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "more than it may be"))?;
        Ok(piece)
    })
}

/// Brotli's windows of up to a GiB are no part of its standard, and no cache uses them.
async fn refuse_large_window<R>(mut reader: BufReader<R>) -> io::Result<BufReader<R>>
where
    R: AsyncRead + Unpin,
{
    use tokio::io::AsyncBufReadExt as _;
    let first = reader.fill_buf().await?.first();
    if first.is_some_and(|byte| byte & 0x7f == 0x11) {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "a large window"));
    }
    Ok(reader)
}

#[cfg(test)]
mod tests {
    use async_compression::{
        Level,
        codecs::zstd::params::CParameter,
        tokio::bufread::{BrotliEncoder, BzEncoder, XzEncoder, ZstdEncoder},
    };
    use tokio::io::AsyncReadExt as _;

    use super::*;

    async fn read(mut reader: impl AsyncRead + Unpin) -> Vec<u8> {
        let mut bytes = Vec::new();
        reader.read_to_end(&mut bytes).await.unwrap();
        bytes
    }

    async fn compressed(codec: Codec, bytes: &[u8]) -> Vec<u8> {
        match codec {
            Codec::None => bytes.to_vec(),
            Codec::Xz => read(XzEncoder::new(bytes)).await,
            Codec::Zstd => read(ZstdEncoder::new(bytes)).await,
            Codec::Brotli => read(BrotliEncoder::with_quality(bytes, Level::Fastest)).await,
            Codec::Bzip2 => read(BzEncoder::new(bytes)).await,
        }
    }

    /// What comes out, and whether it ended well.
    async fn decoded(codec: Codec, bytes: Vec<u8>, nar_size: u64) -> (Vec<u8>, bool) {
        let chunks: Vec<_> = bytes
            .chunks(10_000)
            .map(|chunk| Ok(Bytes::copy_from_slice(chunk)))
            .collect();
        let mut pieces = decode(stream::iter(chunks), codec, nar_size);
        let mut out = Vec::new();
        while let Some(piece) = pieces.next().await {
            match piece {
                Ok(piece) => out.extend_from_slice(&piece),
                Err(_) => return (out, false),
            }
        }
        (out, true)
    }

    const ALL: [Codec; 5] = [
        Codec::None,
        Codec::Xz,
        Codec::Zstd,
        Codec::Brotli,
        Codec::Bzip2,
    ];

    #[tokio::test]
    async fn every_codec_gives_back_what_was_compressed() {
        let bytes: Vec<u8> = (0..300_000u32)
            .map(|i| (i.wrapping_mul(i) >> 7) as u8)
            .collect();
        for codec in ALL {
            let small = compressed(codec, &bytes).await;
            let (out, ended_well) = decoded(codec, small.clone(), bytes.len() as u64).await;
            assert!(out == bytes && ended_well, "{codec:?}");
            let cut = small[..small.len() / 2].to_vec();
            let (out, ended_well) = decoded(codec, cut, bytes.len() as u64).await;
            assert!(out.len() < bytes.len(), "{codec:?}");
            assert!(!ended_well || codec == Codec::None, "{codec:?}");
        }
    }

    #[tokio::test]
    async fn a_bomb_gives_no_more_than_the_nar_has() {
        let zeros = vec![0; 50_000_000];
        for codec in ALL {
            let bomb = compressed(codec, &zeros).await;
            let (out, ended_well) = decoded(codec, bomb, 1_000_000).await;
            assert!(out.len() <= 1_000_000 && !ended_well, "{codec:?}");
        }
    }

    #[tokio::test]
    async fn windows_that_want_too_much_memory_are_refused() {
        let bytes = vec![7; 1000];
        let window = CParameter::window_log(limits::UPSTREAM_WINDOW_LOG + 1);
        let level = Level::Default;
        let source = bytes.repeat(200_000);
        let zstd = read(ZstdEncoder::with_quality_and_params(
            &source[..],
            level,
            &[window, CParameter::content_size_flag(false)],
        ))
        .await;
        let (_, ended_well) = decoded(Codec::Zstd, zstd, source.len() as u64).await;
        assert!(!ended_well);
        let (_, ended_well) = decoded(Codec::Brotli, vec![0x11, 0x1e, 0], 1000).await;
        assert!(!ended_well);
    }

    #[tokio::test]
    async fn endless_input_that_gives_nothing_is_given_up() {
        // Empty frames of zstd: 9 bytes each, nothing comes out.
        let empty = compressed(Codec::Zstd, b"").await;
        let many = empty.repeat(4_000_000 / empty.len());
        let (out, ended_well) = decoded(Codec::Zstd, many, 1000).await;
        assert!(out.is_empty() && !ended_well);
    }
}
