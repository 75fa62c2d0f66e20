//! A distant server: a TCP proxy that holds every byte back for a while, in both directions, and counts the requests that
//! pass.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

/// What is looked at of a frame, in bytes: the beginning of its header line.
const HEAD: usize = 400;

/// The proxy. It runs as long as the program.
pub struct Distance {
    uri: String,
    seen: Arc<Mutex<Seen>>,
}

/// The data requests that passed since the last [`Distance::take`].
#[derive(Debug, Clone, Default)]
pub struct Seen {
    pub opens: u64,
    pub writes: u64,
    pub closes: u64,
    /// Any other request.
    pub others: u64,
    /// When the first and the last of the data requests came.
    pub between: Option<(Instant, Instant)>,
}

impl Seen {
    /// Requests for data in all.
    pub fn requests(&self) -> u64 {
        self.opens + self.writes + self.closes
    }

    /// From the first to the last.
    pub fn seconds(&self) -> f64 {
        self.between.map_or(0.0, |(first, last)| (last - first).as_secs_f64())
    }
}

impl Distance {
    /// Before this engine, so far away.
    pub fn before(uri: &str, one_way: Duration) -> Self {
        let target = uri.trim_start_matches("http://").to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let uri = format!("http://{}", listener.local_addr().unwrap());
        let seen = Arc::new(Mutex::new(Seen::default()));
        let counted = Arc::clone(&seen);
        thread::spawn(move || {
            for near in listener.incoming() {
                let near = near.unwrap();
                let far = TcpStream::connect(&target).unwrap();
                let counted = Arc::clone(&counted);
                let mut frames = Frames::default();
                let look = move |bytes: &[u8]| frames.look(bytes, &mut |head| note(&counted, head));
                hold_back(near.try_clone().unwrap(), far.try_clone().unwrap(), one_way, look);
                hold_back(far, near, one_way, |_| {});
            }
        });
        Self { uri, seen }
    }

    pub fn uri(&self) -> &str {
        &self.uri
    }

    /// What passed, and begins to count anew.
    pub fn take(&self) -> Seen {
        std::mem::take(&mut *self.seen.lock().unwrap())
    }
}

fn note(seen: &Mutex<Seen>, head: &[u8]) {
    let head = String::from_utf8_lossy(head);
    let mut seen = seen.lock().unwrap();
    let count = if !head.contains("\"rrext_process\"") {
        seen.others += 1;
        return;
    } else if head.contains("\"subcommand\":\"open\"") {
        &mut seen.opens
    } else if head.contains("\"subcommand\":\"write\"") {
        &mut seen.writes
    } else {
        &mut seen.closes
    };
    *count += 1;
    let now = Instant::now();
    seen.between = Some((seen.between.map_or(now, |(first, _)| first), now));
}

/// One direction: a thread reads and notes the time, another one writes when it has come.
fn hold_back(mut from: TcpStream, mut to: TcpStream, time: Duration, mut look: impl FnMut(&[u8]) + Send + 'static) {
    to.set_nodelay(true).unwrap();
    let (sender, receiver): (Sender<(Instant, Vec<u8>)>, Receiver<_>) = channel();
    thread::spawn(move || {
        let mut buffer = vec![0; 64 * 1024];
        while let Ok(read @ 1..) = from.read(&mut buffer) {
            look(&buffer[..read]);
            if sender.send((Instant::now() + time, buffer[..read].to_vec())).is_err() {
                break;
            }
        }
    });
    thread::spawn(move || {
        for (due, bytes) in receiver {
            thread::sleep(due.saturating_duration_since(Instant::now()));
            if to.write_all(&bytes).is_err() {
                break;
            }
        }
        let _ = to.shutdown(Shutdown::Both);
    });
}

/// Finds the beginnings of a client's text and binary messages in what it sends.
#[derive(Default)]
struct Frames {
    /// The upgrade to a `WebSocket` is over.
    upgraded: bool,
    /// What does not make a frame's header yet; before the upgrade the end of what came.
    begun: Vec<u8>,
    /// The frame that is passing.
    frame: Option<Passing>,
}

struct Passing {
    is_data: bool,
    left: u64,
    mask: [u8; 4],
    at: usize,
    head: Vec<u8>,
}

impl Frames {
    fn look(&mut self, mut bytes: &[u8], message: &mut impl FnMut(&[u8])) {
        while !bytes.is_empty() {
            if !self.upgraded {
                self.begun.push(bytes[0]);
                bytes = &bytes[1..];
                if self.begun.ends_with(b"\r\n\r\n") {
                    (self.upgraded, self.begun) = (true, Vec::new());
                }
                continue;
            }
            let Some(frame) = &mut self.frame else {
                self.begun.push(bytes[0]);
                bytes = &bytes[1..];
                self.frame = passing(&self.begun);
                if self.frame.is_some() {
                    self.begun.clear();
                }
                self.end(message);
                continue;
            };
            let now = usize::try_from(frame.left).unwrap_or(usize::MAX).min(bytes.len());
            for byte in &bytes[..now.min(HEAD - frame.head.len())] {
                frame.head.push(byte ^ frame.mask[frame.at % 4]);
                frame.at += 1;
            }
            frame.left -= now as u64;
            bytes = &bytes[now..];
            self.end(message);
        }
    }

    fn end(&mut self, message: &mut impl FnMut(&[u8])) {
        if let Some(frame) = self.frame.take_if(|frame| frame.left == 0)
            && frame.is_data
        {
            message(&frame.head);
        }
    }
}

/// The frame behind this header, if it is whole. Every frame of a client is masked.
fn passing(header: &[u8]) -> Option<Passing> {
    let (first, second) = (*header.first()?, *header.get(1)?);
    let (more, left) = match second & 0x7f {
        126 => (2, u64::from(u16::from_be_bytes(header.get(2..4)?.try_into().ok()?))),
        127 => (8, u64::from_be_bytes(header.get(2..10)?.try_into().ok()?)),
        short => (0, u64::from(short)),
    };
    let mask = header.get(2 + more..6 + more)?.try_into().ok()?;
    Some(Passing { is_data: matches!(first & 0x0f, 1 | 2), left, mask, at: 0, head: Vec::new() })
}
