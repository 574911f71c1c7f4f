//! Servers that loggers send to: sound ones, slow ones, those that never answer, those that refuse. Not general servers: a
//! request has Content-Length, and every answer is the same.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use anyhow::Result;

use crate::upstream::content_length;

/// How a sink behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mood {
    Sound,
    /// Answers, or reads on, after 200 ms.
    Slow,
    /// Takes connections and neither reads nor answers.
    Hanging,
    /// HTTP: 503. TCP: nobody listens.
    Refusing,
}

pub const MOODS: [Mood; 4] = [Mood::Sound, Mood::Slow, Mood::Hanging, Mood::Refusing];
const SLOW: Duration = Duration::from_millis(200);
/// Also what `elasticsearch-logger` asks for at first.
const BODY: &str = r#"{"version":{"number":"8.0.0"}}"#;

/// The ports of one mood.
#[derive(Debug, Clone, Copy)]
pub struct Sinks {
    pub http: u16,
    pub tcp: u16,
    pub udp: u16,
}

impl Sinks {
    /// Serves until the process ends.
    pub fn start(mood: Mood) -> Result<Sinks> {
        let http = listen(mood, move |stream| requests(stream, mood))?;
        let tcp = match mood {
            Mood::Refusing => crate::ports::free(&[Ipv4Addr::LOCALHOST])?,
            _ => listen(mood, move |stream| bytes(stream, mood))?,
        };
        // Packets that nobody reads are dropped by the kernel: a sink that takes everything.
        let udp = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
        let port = udp.local_addr()?.port();
        std::mem::forget(udp);
        Ok(Sinks { http, tcp, udp: port })
    }

    pub fn http_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.http)
    }
}

fn listen(mood: Mood, serve: impl Fn(TcpStream) -> std::io::Result<()> + Send + Sync + Copy + 'static) -> Result<u16> {
    let listener = TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))?;
    let port = listener.local_addr()?.port();
    if mood == Mood::Hanging {
        // The kernel takes connections into the backlog.
        std::mem::forget(listener);
        return Ok(port);
    }
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            // A peer that breaks off ends its thread and nothing else.
            std::thread::spawn(move || serve(stream).ok());
        }
    });
    Ok(port)
}

fn bytes(mut stream: TcpStream, mood: Mood) -> std::io::Result<()> {
    let mut chunk = vec![0; 256 * 1024];
    while stream.read(&mut chunk)? > 0 {
        if mood == Mood::Slow {
            std::thread::sleep(SLOW);
        }
    }
    Ok(())
}

fn requests(mut stream: TcpStream, mood: Mood) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let status = if mood == Mood::Refusing { "503 Service Unavailable" } else { "200 OK" };
    let answer =
        format!("HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{BODY}", BODY.len());
    let (mut head, mut chunk) = (Vec::new(), vec![0; 256 * 1024]);
    loop {
        let end = loop {
            if let Some(end) = memchr::memmem::find(&head, b"\r\n\r\n") {
                break end + 4;
            }
            match stream.read(&mut chunk)? {
                0 => return Ok(()),
                n => head.extend_from_slice(chunk.get(..n).unwrap_or_default()),
            }
        };
        let mut left = content_length(head.get(..end).unwrap_or_default()).unwrap_or(0);
        head.drain(..end);
        let here = left.min(head.len());
        head.drain(..here);
        left -= here;
        while left > 0 {
            match stream.read(&mut chunk)? {
                0 => return Err(ErrorKind::UnexpectedEof.into()),
                n => {
                    head.extend_from_slice(chunk.get(left.min(n)..n).unwrap_or_default());
                    left -= left.min(n);
                }
            }
        }
        if mood == Mood::Slow {
            std::thread::sleep(SLOW);
        }
        stream.write_all(answer.as_bytes())?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sound_sink_answers_each_request_and_a_refusing_one_with_503() {
        for (mood, wanted) in [(Mood::Sound, "200"), (Mood::Refusing, "503")] {
            let sinks = Sinks::start(mood).unwrap();
            let mut stream = TcpStream::connect(("127.0.0.1", sinks.http)).unwrap();
            for _ in 0..2 {
                stream.write_all(b"POST / HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc").unwrap();
                let mut answer = vec![0; 512];
                let n = stream.read(&mut answer).unwrap();
                assert_eq!(std::str::from_utf8(&answer[9..12]).unwrap(), wanted, "{n}");
            }
        }
    }
}
