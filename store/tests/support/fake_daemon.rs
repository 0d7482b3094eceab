//! A daemon of a made-up version of Nix, which serves records from memory.

use std::{
    io::{self, BufReader, Read as _, Write as _},
    os::unix::net::{UnixListener, UnixStream},
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    thread,
};

use peerix_store::{PathInfo, StorePath};
use tempfile::TempDir;

const LAST: u64 = 0x616c_7473;
const NEXT: u64 = 0x6f6c_6d67;

/// What the daemon is and has.
#[derive(Clone)]
pub struct Behaviour {
    /// The minor version of the protocol.
    pub minor: u64,
    pub infos: Vec<PathInfo>,
    /// Requests after which a connection is closed.
    pub requests: usize,
}

/// Threads serve until the last client goes; the socket is gone when this is dropped.
pub struct FakeDaemon {
    pub dir: TempDir,
    pub connections: Arc<AtomicUsize>,
    /// Connections that have ended.
    pub ended: Arc<AtomicUsize>,
}

impl FakeDaemon {
    pub fn start(behaviour: Behaviour) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(dir.path().join("socket")).unwrap();
        let connections = Arc::new(AtomicUsize::new(0));
        let ended = Arc::new(AtomicUsize::new(0));
        let (count, count_ended) = (connections.clone(), ended.clone());
        thread::spawn(move || {
            for stream in listener.incoming() {
                let (stream, behaviour) = (stream.unwrap(), behaviour.clone());
                count.fetch_add(1, SeqCst);
                let ended = count_ended.clone();
                thread::spawn(move || {
                    let _client_went = Session::new(stream).serve(&behaviour);
                    ended.fetch_add(1, SeqCst);
                });
            }
        });
        Self {
            dir,
            connections,
            ended,
        }
    }

    pub fn socket(&self) -> PathBuf {
        self.dir.path().join("socket")
    }
}

struct Session {
    input: BufReader<UnixStream>,
    output: UnixStream,
    answer: Vec<u8>,
}

impl Session {
    fn new(stream: UnixStream) -> Self {
        Self {
            output: stream.try_clone().unwrap(),
            input: BufReader::new(stream),
            answer: Vec::new(),
        }
    }

    fn number(&mut self) -> io::Result<u64> {
        let mut bytes = [0; 8];
        self.input.read_exact(&mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }

    fn text(&mut self) -> io::Result<String> {
        let length = self.number()? as usize;
        let mut bytes = vec![0; length.next_multiple_of(8)];
        self.input.read_exact(&mut bytes)?;
        bytes.truncate(length);
        Ok(String::from_utf8(bytes).unwrap())
    }

    fn put(&mut self, number: u64) -> &mut Self {
        self.answer.extend(number.to_le_bytes());
        self
    }

    fn put_text(&mut self, text: &str) -> &mut Self {
        self.put(text.len() as u64);
        self.answer.extend(text.as_bytes());
        self.answer.resize(self.answer.len().next_multiple_of(8), 0);
        self
    }

    fn put_texts(&mut self, texts: &[String]) -> &mut Self {
        self.put(texts.len() as u64);
        for text in texts {
            self.put_text(text);
        }
        self
    }

    fn send(&mut self) -> io::Result<()> {
        let answer = std::mem::take(&mut self.answer);
        self.output.write_all(&answer)
    }

    fn serve(mut self, behaviour: &Behaviour) -> io::Result<()> {
        assert_eq!(self.number()?, 0x6e69_7863);
        self.put(0x6478_696f).put(0x100 | behaviour.minor).send()?;
        let spoken = self.number()? - 0x100;
        assert!(spoken <= behaviour.minor);
        assert_eq!((self.number()?, self.number()?), (0, 0));
        if spoken >= 33 {
            self.put_text("2.99");
        }
        if spoken >= 35 {
            self.put(2);
        }
        self.put(LAST).send()?;
        for _ in 0..behaviour.requests {
            let operation = self.number()?;
            self.put(NEXT).put_text("a line\n").put(LAST);
            let absolute = StorePath::to_absolute_path;
            match operation {
                23 => {
                    let paths = behaviour
                        .infos
                        .iter()
                        .map(|info| absolute(&info.store_path));
                    self.put_texts(&paths.collect::<Vec<_>>());
                }
                26 => {
                    let path = self.text()?;
                    match behaviour
                        .infos
                        .iter()
                        .find(|info| absolute(&info.store_path) == path)
                    {
                        None => drop(self.put(0)),
                        Some(info) => self.put_info(info),
                    }
                }
                29 => {
                    let path_hash = self.text()?;
                    let found = behaviour
                        .infos
                        .iter()
                        .find(|info| info.path_hash().to_string() == path_hash);
                    self.put_text(
                        &found
                            .map(|info| absolute(&info.store_path))
                            .unwrap_or_default(),
                    );
                }
                other => panic!("operation {other}"),
            }
            self.send()?;
        }
        Ok(())
    }

    fn put_info(&mut self, info: &PathInfo) {
        let nar_hash: String = info
            .nar_hash
            .as_bytes()
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        let references: Vec<_> = info
            .references
            .iter()
            .map(StorePath::to_absolute_path)
            .collect();
        let deriver = info.deriver.as_ref().map(StorePath::to_absolute_path);
        self.put(1)
            .put_text(&deriver.unwrap_or_default())
            .put_text(&nar_hash)
            .put_texts(&references)
            .put(info.registration_time as u64)
            .put(info.nar_size)
            .put(0)
            .put_texts(&info.signatures)
            .put_text(info.content_address.as_deref().unwrap_or_default());
    }
}
