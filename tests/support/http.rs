//! An HTTP/1.1 client that sends exactly what it is told and reports exactly what came.

use std::{
    collections::BTreeMap,
    io::{self, BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

/// What came back.
#[derive(Debug)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// Header names in lower case.
    pub headers: BTreeMap<String, String>,
    /// The body as far as it came.
    pub body: Vec<u8>,
    /// Whether the body ended where its headers said.
    pub complete: bool,
}

impl Answer {
    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The value of a header, empty where it is missing.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }
}

/// `GET target` with the right `Host`.
pub fn get(address: SocketAddr, target: &str) -> Answer {
    request(address, "GET", target, &[])
}

/// A request with the right `Host` and these further headers.
pub fn request(
    address: SocketAddr,
    method: &str,
    target: &str,
    headers: &[(&str, &str)],
) -> Answer {
    let mut head =
        format!("{method} {target} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n");
    for (name, value) in headers {
        head += &format!("{name}: {value}\r\n");
    }
    head += "\r\n";
    exchange(address, head.as_bytes(), method == "HEAD").expect("an HTTP answer")
}

/// Sends `raw` as it is and reads one answer.
pub fn exchange(address: SocketAddr, raw: &[u8], no_body: bool) -> io::Result<Answer> {
    let mut stream = connect(address)?;
    stream.write_all(raw)?;
    read_answer(&mut BufReader::new(stream), no_body)
}

/// A connection that gives up after a minute of silence.
pub fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&address, Duration::from_secs(10))?;
    stream.set_read_timeout(Some(Duration::from_secs(60)))?;
    stream.set_write_timeout(Some(Duration::from_secs(60)))?;
    Ok(stream)
}

/// Reads status line and headers.
pub fn read_head(reader: &mut impl BufRead) -> io::Result<(u16, BTreeMap<String, String>)> {
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let status = line
        .split(' ')
        .nth(1)
        .and_then(|code| code.parse().ok())
        .ok_or_else(|| io::Error::other(format!("no status line: {line:?}")))?;
    let mut headers = BTreeMap::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let Some((name, value)) = line.trim_end().split_once(':') else {
            return Ok((status, headers));
        };
        headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
    }
}

/// Reads one answer from a connection that may be used again.
pub fn read_answer(reader: &mut impl BufRead, no_body: bool) -> io::Result<Answer> {
    let (status, headers) = read_head(reader)?;
    let mut body = Vec::new();
    let complete = if no_body || status == 304 || status == 204 {
        true
    } else if let Some(length) = headers.get("content-length") {
        let length: u64 = length.parse().map_err(io::Error::other)?;
        // A reset is a cut like any other.
        let _ = reader.take(length).read_to_end(&mut body);
        body.len() as u64 == length
    } else if headers
        .get("transfer-encoding")
        .is_some_and(|v| v == "chunked")
    {
        read_chunks(reader, &mut body).is_ok()
    } else {
        reader.read_to_end(&mut body).is_ok()
    };
    Ok(Answer {
        status,
        headers,
        body,
        complete,
    })
}

fn read_chunks(reader: &mut impl BufRead, body: &mut Vec<u8>) -> io::Result<()> {
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let size = u64::from_str_radix(line.trim(), 16).map_err(io::Error::other)?;
        let before = body.len() as u64;
        reader.take(size).read_to_end(body)?;
        if body.len() as u64 - before != size {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        reader.read_line(&mut line)?;
        if size == 0 {
            return Ok(());
        }
    }
}
