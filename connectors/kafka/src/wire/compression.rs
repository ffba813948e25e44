//! The codecs of record batches (Kafka's documentation, "Record Batch": bits 0 to 2 of the attributes).

use std::io::{self, BufRead, Read};

use bytes::Bytes;

/// What a batch may grow to. Its compressed bytes are bounded by the broker's `message.max.bytes` alone.
const MOST_BYTES: usize = 256 << 20;

/// Snappy makes no more of a byte: a copy of 64 bytes takes three.
const MOST_OF_SNAPPY: usize = 24;

/// Blocks behind this are those of snappy-java: their size in four bytes, then a block of the raw format each.
const XERIAL: &[u8] = b"\x82SNAPPY\0";
/// With two version numbers of four bytes behind it.
const XERIAL_HEADER: usize = XERIAL.len() + 8;

/// The records of a batch, without their compression.
///
/// # Errors
/// If the codec is unknown, the bytes are none of its, or they are more than 256 MiB.
pub(super) fn decompress(codec: i16, compressed: &Bytes) -> io::Result<Bytes> {
    match codec {
        0 => Ok(compressed.clone()),
        1 => read_whole(flate2::read::MultiGzDecoder::new(&compressed[..]), compressed.len()),
        2 => snappy(compressed),
        3 => append_whole(lz4_flex::frame::FrameDecoder::new(&compressed[..]), compressed.len()),
        4 => read_whole(
            zstd::stream::read::Decoder::with_buffer(&compressed[..])?,
            compressed.len(),
        ),
        _ => Err(invalid(format!("codec {codec} is not known"))),
    }
}

fn read_whole(reader: impl Read, compressed: usize) -> io::Result<Bytes> {
    let mut bytes = Vec::with_capacity(compressed.saturating_mul(4).min(MOST_BYTES));
    let read = reader.take(MOST_BYTES as u64 + 1).read_to_end(&mut bytes)?;
    if read > MOST_BYTES {
        return Err(too_large());
    }
    Ok(bytes.into())
}

/// As [`read_whole`], from a reader that has its bytes in blocks of its own: no room is filled with zeroes before.
fn append_whole(mut reader: impl BufRead, compressed: usize) -> io::Result<Bytes> {
    let mut bytes = Vec::with_capacity(compressed.saturating_mul(4).min(MOST_BYTES));
    loop {
        let block = reader.fill_buf()?;
        if block.is_empty() {
            return Ok(bytes.into());
        }
        if block.len() > MOST_BYTES - bytes.len() {
            return Err(too_large());
        }
        bytes.extend_from_slice(block);
        let taken = block.len();
        reader.consume(taken);
    }
}

fn snappy(compressed: &[u8]) -> io::Result<Bytes> {
    let mut decoder = snap::raw::Decoder::new();
    let mut bytes = Vec::new();
    let mut append = |block: &[u8]| {
        let from = bytes.len();
        let length = snap::raw::decompress_len(block).map_err(invalid)?;
        if length > block.len().saturating_mul(MOST_OF_SNAPPY) {
            return Err(invalid("a block claims to be larger than it can be"));
        }
        if length > MOST_BYTES - from {
            return Err(too_large());
        }
        bytes.resize(from + length, 0);
        decoder.decompress(block, &mut bytes[from..]).map_err(invalid)
    };
    if compressed.starts_with(XERIAL) {
        let mut rest = compressed.get(XERIAL_HEADER..).unwrap_or_default();
        while let Some((size, behind)) = rest.split_first_chunk() {
            let size = u32::from_be_bytes(*size) as usize;
            let (block, behind) = behind
                .split_at_checked(size)
                .ok_or_else(|| invalid("a block is cut off"))?;
            append(block)?;
            rest = behind;
        }
        if !rest.is_empty() {
            return Err(invalid("a block's size is cut off"));
        }
    } else {
        append(compressed)?;
    }
    Ok(bytes.into())
}

fn invalid(what: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

fn too_large() -> io::Error {
    invalid(format!("more than {MOST_BYTES} bytes without its compression"))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use lz4_flex::frame::{BlockMode, BlockSize, FrameEncoder, FrameInfo};

    use super::*;

    fn text() -> Vec<u8> {
        b"abcdefgh".repeat(20_000)
    }

    #[test]
    fn what_each_codec_wrote_is_read() {
        let text = text();
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(&text).unwrap();
        let mut lz4 = FrameEncoder::new(Vec::new());
        lz4.write_all(&text).unwrap();
        let raw = snap::raw::Encoder::new().compress_vec(&text).unwrap();
        let mut xerial = XERIAL.to_vec();
        xerial.extend([0, 0, 0, 1, 0, 0, 0, 1]);
        for block in text.chunks(32 << 10) {
            let block = snap::raw::Encoder::new().compress_vec(block).unwrap();
            xerial.extend((block.len() as u32).to_be_bytes());
            xerial.extend(block);
        }
        let written = [
            (0, text.clone()),
            (1, gzip.finish().unwrap()),
            (2, raw),
            (2, xerial),
            (3, lz4.finish().unwrap()),
            (4, zstd::stream::encode_all(&text[..], 1).unwrap()),
        ];
        for (codec, bytes) in written {
            assert_eq!(decompress(codec, &bytes.into()).unwrap(), text, "{codec}");
        }
    }

    #[test]
    fn blocks_of_lz4_that_need_those_before_are_read_and_no_more_than_the_limit() {
        let write = |count: usize, mode| {
            let info = FrameInfo::new().block_mode(mode).block_size(BlockSize::Max64KB);
            let mut encoder = FrameEncoder::with_frame_info(info, Vec::new());
            io::copy(&mut io::repeat(b'a').take(count as u64), &mut encoder).unwrap();
            encoder.finish().unwrap()
        };
        for mode in [BlockMode::Linked, BlockMode::Independent] {
            let read = decompress(3, &write(200_000, mode).into()).unwrap();
            assert!(read.len() == 200_000 && read.iter().all(|byte| *byte == b'a'));
        }
        let error = decompress(3, &write(MOST_BYTES + 1, BlockMode::Independent).into()).unwrap_err();
        assert!(error.to_string().starts_with("more than"), "{error}");
    }

    #[test]
    fn what_no_codec_wrote_is_refused() {
        for codec in 1..=7 {
            decompress(codec, &Bytes::from_static(b"no codec wrote this")).unwrap_err();
        }
        let cut = [XERIAL, &[0; 8], &[0, 0, 0, 9, 1]].concat();
        decompress(2, &cut.into()).unwrap_err();
        // 4 GiB, says its length, and is refused before it has them.
        decompress(2, &Bytes::from_static(b"\xff\xff\xff\xff\x0f")).unwrap_err();
    }
}
