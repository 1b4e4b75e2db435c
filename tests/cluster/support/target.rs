//! Instances that the hub delivers to: HTTP servers that behave as a test wants.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// What a target does with a request.
#[derive(Clone, Debug)]
pub(crate) enum Behaviour {
    /// Answers with this status and these lines of header.
    Answer(u16, String),
    /// Keeps silent.
    Never,
    /// Ends the connection after the request.
    Close,
    /// Answers 200, and then zeros without end.
    Endless,
    /// Says what no HTTP server says.
    Nonsense,
    /// Says this, and ends the connection.
    Cut(&'static str),
    /// Waits until it is told to behave otherwise, and does that.
    Held,
}

/// A request that came: its head, and its body.
#[derive(Clone, Debug)]
pub(crate) struct Got {
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Got {
    /// A header, by its name in lower case.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let lines = self.head.lines().filter_map(|line| line.split_once(": "));
        lines.clone().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }

    /// The offset of the event.
    pub(crate) fn offset(&self) -> u64 {
        self.header("ce-sequence").unwrap().parse().unwrap()
    }
}

/// An HTTP server. It listens until the test is over.
#[derive(Clone)]
pub(crate) struct Target {
    pub(crate) address: String,
    behaviour: Arc<Mutex<Behaviour>>,
    got: Arc<Mutex<Vec<Got>>>,
}

impl Target {
    pub(crate) fn start(behaviour: Behaviour) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let target = Self {
            address: listener.local_addr().unwrap().to_string(),
            behaviour: Arc::new(Mutex::new(behaviour)),
            got: Arc::default(),
        };
        let serving = target.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (serving, stream) = (serving.clone(), stream.unwrap());
                std::thread::spawn(move || serving.serve(stream));
            }
        });
        target
    }

    pub(crate) fn behave(&self, behaviour: Behaviour) {
        *self.behaviour.lock().unwrap() = behaviour;
    }

    /// How it behaves once it need not wait.
    fn unheld(&self) -> Behaviour {
        loop {
            let behaviour = self.behaviour.lock().unwrap().clone();
            if !matches!(behaviour, Behaviour::Held) {
                return behaviour;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// What came so far.
    pub(crate) fn got(&self) -> Vec<Got> {
        self.got.lock().unwrap().clone()
    }

    /// One connection; whoever asks may go at any time.
    fn serve(&self, mut stream: TcpStream) -> Option<()> {
        loop {
            let got = request(&mut stream)?;
            // Before it is noted, so that who sees it noted sees its end.
            let behaviour = self.behaviour.lock().unwrap().clone();
            self.got.lock().unwrap().push(got);
            let held = matches!(behaviour, Behaviour::Held);
            match if held { self.unheld() } else { behaviour } {
                Behaviour::Answer(status, headers) => {
                    let head =
                        format!("HTTP/1.1 {status} x\r\n{headers}content-length: 3\r\n\r\nwhy");
                    stream.write_all(head.as_bytes()).ok()?;
                }
                Behaviour::Never => loop {
                    std::thread::sleep(Duration::from_secs(1));
                },
                // It was told to behave otherwise by now.
                Behaviour::Close | Behaviour::Held => return None,
                Behaviour::Cut(begin) => {
                    stream.write_all(begin.as_bytes()).ok()?;
                    return None;
                }
                Behaviour::Endless => {
                    stream
                        .write_all(b"HTTP/1.1 200 x\r\ncontent-length: 1073741824\r\n\r\n")
                        .ok()?;
                    loop {
                        stream.write_all(&[0; 65_536]).ok()?;
                    }
                }
                Behaviour::Nonsense => {
                    stream.write_all(b"220 mail.example.org ESMTP\r\n").ok()?;
                    return None;
                }
            }
        }
    }
}

fn request(stream: &mut TcpStream) -> Option<Got> {
    let mut bytes = Vec::new();
    let mut part = [0; 4096];
    let end = loop {
        if let Some(at) = bytes.windows(4).position(|w| w == b"\r\n\r\n") {
            break at + 4;
        }
        let read = stream.read(&mut part).ok().filter(|read| *read > 0)?;
        bytes.extend_from_slice(&part[..read]);
    };
    let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
    let mut got = Got { head, body: String::new() };
    let length: usize = got.header("content-length").map_or(0, |n| n.parse().unwrap());
    while bytes.len() < end + length {
        let read = stream.read(&mut part).ok().filter(|read| *read > 0)?;
        bytes.extend_from_slice(&part[..read]);
    }
    got.body = String::from_utf8_lossy(&bytes[end..]).into_owned();
    Some(got)
}
