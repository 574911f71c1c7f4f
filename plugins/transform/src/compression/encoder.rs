//! The encoders themselves. The surprise: those of gzip and zstd are kept by their thread when a response is done, since
//! setting one up costs more than a small response.
use brotli::CompressorWriter;
use brotli::enc::BrotliEncoderParams;
use flate2::{Compress, Compression, FlushCompress, Status};
use std::cell::RefCell;
use std::io::{self, Write};
use zstd::stream::raw::{CParameter, Encoder as Zstd, InBuffer, Operation, OutBuffer};

/// Encoders of one kind that a thread keeps for later responses (gzip's have some 300 KiB, zstd's 1 to 4 MiB).
pub(crate) const IDLE: usize = 8;
/// zlib's window for gzip, as a power of two: 32 KiB.
const WINDOW_BITS: u8 = 15;
/// The level that stands for 1: zlib-rs's own makes responses 15 to 25 % larger than that of zlib, which nginx has; its
/// 2 makes them as small as zlib's 1, in less time.
const FASTEST: u32 = 2;
/// Bytes that brotli gathers before they go to the response's buffer.
const OUTPUT_BUFFER: usize = 4096;
/// zstd's window as powers of two: browsers take no more than 8 MiB (RFC 9659), and no response here needs as much.
const ZSTD_WINDOW: std::ops::RangeInclusive<u32> = 10..=21;
/// The window for a response of unknown length: it may be one of ten thousand event streams, each with its encoder.
pub(crate) const STREAM_WINDOW: u32 = 18;
/// From this level on zstd's tables are too large to be kept.
const ZSTD_KEPT: u32 = 7;

type Kept<T> = RefCell<Vec<(u32, T)>>;

thread_local! {
    static GZIP: Kept<Compress> = const { RefCell::new(Vec::new()) };
    static ZSTD: Kept<Zstd<'static>> = const { RefCell::new(Vec::new()) };
}

fn take<T>(kept: &mut Vec<(u32, T)>, level: u32) -> Option<T> {
    let at = kept.iter().position(|(l, _)| *l == level)?;
    Some(kept.swap_remove(at).1)
}

/// The thread may be ending; then nothing is kept.
fn keep<T>(kept: &'static std::thread::LocalKey<Kept<T>>, level: u32, encoder: T) {
    let _ = kept.try_with(|kept| {
        let Ok(mut kept) = kept.try_borrow_mut() else { return };
        if kept.len() < IDLE {
            kept.push((level, encoder));
        }
    });
}

/// How many gzip encoders the thread keeps; at most [`IDLE`].
#[cfg(test)]
pub(crate) fn idle_gzip() -> usize {
    GZIP.with_borrow(Vec::len)
}

enum Kind {
    Gzip(Compress),
    Brotli(Box<CompressorWriter<Vec<u8>>>),
    Zstd(Zstd<'static>),
}

/// Encodes one body.
pub(crate) struct Encoder {
    /// Taken out when the encoder is dropped.
    kind: Option<Kind>,
    level: u32,
}

impl Encoder {
    pub(crate) fn gzip(level: u32) -> Encoder {
        let level = level.max(FASTEST);
        let kept = GZIP.with_borrow_mut(|kept| take(kept, level));
        let compress = kept.unwrap_or_else(|| Compress::new_gzip(Compression::new(level), WINDOW_BITS));
        Encoder { kind: Some(Kind::Gzip(compress)), level }
    }

    pub(crate) fn brotli(params: &BrotliEncoderParams, length: Option<u64>) -> Encoder {
        let size_hint = length.and_then(|length| usize::try_from(length).ok()).unwrap_or_default();
        let params = BrotliEncoderParams { size_hint, ..params.clone() };
        let writer = CompressorWriter::with_params(Vec::new(), OUTPUT_BUFFER, &params);
        Encoder { kind: Some(Kind::Brotli(Box::new(writer))), level: 0 }
    }

    pub(crate) fn zstd(level: u32, length: Option<u64>) -> io::Result<Encoder> {
        let kept = ZSTD.with_borrow_mut(|kept| take(kept, level));
        let mut encoder = match kept {
            Some(encoder) => encoder,
            None => Zstd::new(i32::try_from(level).unwrap_or_default())?,
        };
        // A small response needs no large window, neither here nor at the client.
        let bits = length.map_or(STREAM_WINDOW, |length| u64::BITS - length.leading_zeros());
        encoder.set_parameter(CParameter::WindowLog(bits.clamp(*ZSTD_WINDOW.start(), *ZSTD_WINDOW.end())))?;
        Ok(Encoder { kind: Some(Kind::Zstd(encoder)), level })
    }

    /// Appends what comes out of `input`; all of it after a flush or at the end.
    pub(crate) fn write(&mut self, input: &[u8], flush: bool, last: bool, out: &mut Vec<u8>) -> io::Result<()> {
        match &mut self.kind {
            None => Ok(()),
            Some(Kind::Gzip(compress)) => {
                let flush = match (last, flush) {
                    (true, _) => FlushCompress::Finish,
                    (false, true) => FlushCompress::Sync,
                    (false, false) => FlushCompress::None,
                };
                deflate(compress, input, flush, out)
            }
            Some(Kind::Brotli(writer)) => {
                writer.write_all(input)?;
                if last {
                    if let Some(Kind::Brotli(writer)) = self.kind.take() {
                        out.append(&mut writer.into_inner());
                    }
                    return Ok(());
                }
                if flush {
                    writer.flush()?;
                }
                out.append(writer.get_mut());
                Ok(())
            }
            Some(Kind::Zstd(encoder)) => zstandard(encoder, input, flush, last, out),
        }
    }
}

impl Drop for Encoder {
    fn drop(&mut self) {
        match self.kind.take() {
            Some(Kind::Gzip(mut compress)) => {
                compress.reset();
                keep(&GZIP, self.level, compress);
            }
            Some(Kind::Zstd(encoder)) => keep_zstd(self.level, encoder),
            _ => {}
        }
    }
}

fn keep_zstd(level: u32, mut encoder: Zstd<'static>) {
    if level < ZSTD_KEPT && encoder.reinit().is_ok() {
        keep(&ZSTD, level, encoder);
    }
}

/// Room for what comes next.
fn reserve(out: &mut Vec<u8>) {
    if out.capacity() - out.len() < 64 {
        out.reserve(out.capacity().max(1024));
    }
}

/// Feeds the whole input and appends all output that is there.
fn deflate(compress: &mut Compress, input: &[u8], flush: FlushCompress, out: &mut Vec<u8>) -> io::Result<()> {
    let begin = compress.total_in();
    loop {
        let used = (compress.total_in() - begin) as usize;
        let rest = input.get(used..).unwrap_or_default();
        reserve(out);
        match compress.compress_vec(rest, out, flush).map_err(io::Error::other)? {
            Status::StreamEnd => return Ok(()),
            // zlib is done with a flush when it leaves room in the output.
            Status::Ok | Status::BufError => {
                let all_in = (compress.total_in() - begin) as usize == input.len();
                if all_in && flush != FlushCompress::Finish && out.len() < out.capacity() {
                    return Ok(());
                }
            }
        }
    }
}

/// As [`deflate`], for zstd.
fn zstandard(encoder: &mut Zstd<'static>, input: &[u8], flush: bool, last: bool, out: &mut Vec<u8>) -> io::Result<()> {
    let mut source = InBuffer::around(input);
    while source.pos() < input.len() {
        reserve(out);
        let at = out.len();
        encoder.run(&mut source, &mut OutBuffer::around_pos(out, at))?;
    }
    if !flush && !last {
        return Ok(());
    }
    loop {
        reserve(out);
        let at = out.len();
        let mut target = OutBuffer::around_pos(out, at);
        let left = if last { encoder.finish(&mut target, true)? } else { encoder.flush(&mut target)? };
        if left == 0 {
            return Ok(());
        }
    }
}
