//! The access log: lines are formatted into a bounded buffer of the worker, and one thread writes the buffers out.
//!
//! The lock around a buffer is the worker's own; the writer takes it for the length of a pointer swap, at most ten
//! times a second. A worker wakes the writer only with the first line after a swap, so an idle proxy does nothing
//! and a busy one makes ten writes a second instead of one per request.
//!
//! A buffer that is full, or a sink that fails, loses lines and counts them. Dropping the log writes what is left.

use crate::metrics::{Number, lock};
use crate::record::Record;
use std::io::Write;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How long lines may wait.
const GATHER: Duration = Duration::from_millis(100);
/// Room per worker.
const ROOM_BYTES: usize = 1 << 20;

/// The access log of a process.
#[derive(Debug)]
pub struct AccessLog {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    room: usize,
    buffers: Mutex<Vec<Arc<Mutex<Vec<u8>>>>>,
    state: Mutex<State>,
    wake: Condvar,
    lost: Number,
}

#[derive(Debug, Default)]
struct State {
    lines: bool,
    stop: bool,
}

/// One worker's end.
#[derive(Debug, Clone)]
pub struct Lines {
    buffer: Arc<Mutex<Vec<u8>>>,
    shared: Arc<Shared>,
}

impl AccessLog {
    /// Starts the writer. Lines that are lost are counted in `lost`.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn start(sink: Box<dyn Write + Send>, lost: Number) -> std::io::Result<Self> {
        Self::with_room(sink, lost, ROOM_BYTES)
    }

    fn with_room(sink: Box<dyn Write + Send>, lost: Number, room: usize) -> std::io::Result<Self> {
        let shared = Arc::new(Shared {
            room,
            buffers: Mutex::default(),
            state: Mutex::default(),
            wake: Condvar::new(),
            lost,
        });
        let of_thread = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name("access-log".to_owned())
            .stack_size(128 * 1024)
            .spawn(move || write_out(&of_thread, sink))?;
        Ok(Self {
            shared,
            thread: Some(thread),
        })
    }

    /// An end for one more worker.
    #[must_use]
    pub fn lines(&self) -> Lines {
        let buffer = Arc::default();
        lock(&self.shared.buffers).push(Arc::clone(&buffer));
        Lines {
            buffer,
            shared: Arc::clone(&self.shared),
        }
    }
}

impl Drop for AccessLog {
    fn drop(&mut self) {
        lock(&self.shared.state).stop = true;
        self.shared.wake.notify_all();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Lines {
    /// Adds a line, or counts it as lost.
    pub fn log(&self, record: &Record<'_>) {
        let first = {
            let mut buffer = lock(&self.buffer);
            let before = buffer.len();
            record.write(&mut buffer);
            if buffer.len() > self.shared.room {
                buffer.truncate(before);
                self.shared.lost.add(1);
                return;
            }
            before == 0
        };
        if first {
            lock(&self.shared.state).lines = true;
            self.shared.wake.notify_one();
        }
    }
}

fn write_out(shared: &Shared, mut sink: Box<dyn Write + Send>) {
    let mut batch = Vec::new();
    loop {
        let stop = wait(shared);
        let buffers = lock(&shared.buffers).clone();
        for buffer in buffers {
            batch.clear();
            std::mem::swap(&mut batch, &mut *lock(&buffer));
            if batch.is_empty() {
                continue;
            }
            if let Err(error) = sink.write_all(&batch).and_then(|()| sink.flush()) {
                let lines = batch.iter().filter(|b| **b == b'\n').count();
                shared.lost.add(lines as u64);
                tracing::warn!(%error, lines, "the access log cannot be written");
            }
            // A burst leaves no big buffer behind.
            batch.shrink_to(64 * 1024);
        }
        if stop {
            return;
        }
    }
}

/// Waits for a line, then gathers more for a while. Says whether it is time to stop.
fn wait(shared: &Shared) -> bool {
    let mut state = lock(&shared.state);
    while !state.lines && !state.stop {
        state = shared
            .wake
            .wait(state)
            .unwrap_or_else(PoisonError::into_inner);
    }
    state.lines = false;
    let until = Instant::now() + GATHER;
    while !state.stop {
        let rest = until.saturating_duration_since(Instant::now());
        if rest.is_zero() {
            break;
        }
        (state, _) = shared
            .wake
            .wait_timeout(state, rest)
            .unwrap_or_else(PoisonError::into_inner);
    }
    state.stop
}

#[cfg(test)]
mod tests {
    use super::{AccessLog, Record};
    use crate::metrics::{Number, lock};
    use crate::record::Direction;
    use naka_types::reason::Reason;
    use std::io::Write;
    use std::sync::{Arc, Mutex};
    use std::time::Duration;

    #[derive(Clone, Default)]
    struct Sink(Arc<Mutex<Vec<u8>>>);

    impl Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            lock(&self.0).extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[derive(Debug)]
    struct Full;

    impl Write for Full {
        fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
            Err(std::io::ErrorKind::StorageFull.into())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn every_line_is_one_json_object_whatever_the_caller_sent() {
        let sink = Sink::default();
        let lost = Number::default();
        let log = AccessLog::start(Box::new(sink.clone()), lost.clone()).unwrap();
        let nasty = "/a\"b\\c\n\r\t\u{1}\u{7f}é\u{2028}";
        let workers: Vec<_> = (0..4)
            .map(|_| {
                let lines = log.lines();
                std::thread::spawn(move || {
                    for _ in 0..250 {
                        lines.log(&Record {
                            direction: Direction::Inbound,
                            path: nasty,
                            response_code: 503,
                            reason: Some(Reason::NoHealthyEndpoints),
                            duration: Duration::from_millis(7),
                            downstream_remote_address: Some(([127, 0, 0, 1], 80).into()),
                            ..Record::default()
                        });
                    }
                })
            })
            .collect();
        for worker in workers {
            worker.join().unwrap();
        }
        drop(log);
        assert_eq!(lost.value(), 0);
        let text = String::from_utf8(lock(&sink.0).clone()).unwrap();
        let lines: Vec<serde_json::Value> = text
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        assert_eq!(lines.len(), 1_000);
        assert_eq!(lines[0]["path"], nasty);
        assert_eq!(lines[0]["reason"], "no-healthy-endpoints");
        assert_eq!(lines[0]["response_flags"], "UH");
        assert_eq!(lines[0]["duration"], 7);
        assert_eq!(lines[0]["method"], serde_json::Value::Null);
        assert_eq!(lines[0]["downstream_remote_address"], "127.0.0.1:80");
        assert_eq!(lines[0]["start_time"], "1970-01-01T00:00:00.000Z");
    }

    #[test]
    fn what_does_not_fit_or_cannot_be_written_is_counted() {
        let lost = Number::default();
        let log = AccessLog::with_room(Box::new(Sink::default()), lost.clone(), 100).unwrap();
        let lines = log.lines();
        lines.log(&Record::default());
        assert_eq!(lost.value(), 1, "a line is longer than 100 bytes");
        let lost = Number::default();
        let log = AccessLog::start(Box::new(Full), lost.clone()).unwrap();
        let lines = log.lines();
        for _ in 0..3 {
            lines.log(&Record::default());
        }
        drop(log);
        assert_eq!(lost.value(), 3);
    }
}
