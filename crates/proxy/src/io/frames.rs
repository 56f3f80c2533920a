//! A bound on HTTP/2 frames that cost their sender nothing: SETTINGS, PING, PRIORITY, WINDOW_UPDATE, empty DATA.
//!
//! The library answers each of them and counts none (CVE-2019-9512, -9514, -9515, -9517, -9518). So the bytes of a
//! caller are looked at before the library gets them: nine bytes per frame, the rest is skipped. Each such frame takes
//! one unit of credit. Credit comes with what clients send them for: requests (priorities, resets), answers that they
//! take in (window updates), and time (pings). What no client does runs out of it.
//!
//! The same look tells since when a head is on its way: HEADERS that are not all there, CONTINUATION that is awaited, a
//! preface without the first frame. Whoever dawdles over one keeps a connection and asks for nothing.
//!
//! Not counted here: what the library bounds itself (CONTINUATION, resets, header lists, small DATA).

/// Credit at first, and never more.
const CREDIT: i64 = 2_000;
/// For each request.
const OF_REQUEST: i64 = 32;
/// For each KiB that was sent to the caller.
const OF_KIB: i64 = 1;
/// For each second.
const OF_SECOND: i64 = 100;

/// Bytes of the preface.
const PREFACE: usize = 24;
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const GOAWAY: u8 = 7;
/// The code ENHANCE_YOUR_CALM.
const CALM: u8 = 11;

/// Follows the frames of one connection.
#[derive(Debug)]
pub(super) struct Guard {
    /// Bytes to pass over before the next head.
    skip: usize,
    head: [u8; 9],
    filled: usize,
    credit: i64,
    written: u64,
    second: u32,
    /// Since which second a head is on its way.
    head_since: Option<u32>,
    /// The present frame is the last one of a head.
    head_ends: bool,
    begun: bool,
    /// The highest stream that was asked for.
    last: u32,
    /// Whether all that was begun to be written is written: the peer waits for a new frame.
    whole: bool,
}

impl Default for Guard {
    fn default() -> Self {
        Self {
            skip: PREFACE,
            head: [0; 9],
            filled: 0,
            credit: CREDIT,
            written: 0,
            second: 0,
            head_since: None,
            head_ends: false,
            begun: false,
            last: 0,
            whole: true,
        }
    }
}

impl Guard {
    /// Whether the connection may go on after these bytes; `written` are all bytes sent to the caller so far.
    pub(super) fn passes(&mut self, mut bytes: &[u8], written: u64, second: u32) -> bool {
        let kib = (written - self.written) / 1024;
        self.written += kib * 1024;
        let seconds = i64::from(second.saturating_sub(self.second));
        self.second = second;
        if !self.begun {
            self.begun = true;
            self.head_since = Some(second);
        }
        let sent = i64::try_from(kib).map_or(CREDIT, |kib| kib.min(CREDIT));
        let earned = sent * OF_KIB + seconds.min(CREDIT) * OF_SECOND;
        self.credit = (self.credit + earned).min(CREDIT);
        while !bytes.is_empty() {
            if self.skip > 0 {
                let over = self.skip.min(bytes.len());
                self.skip -= over;
                bytes = &bytes[over..];
                self.ended();
                continue;
            }
            let take = (self.head.len() - self.filled).min(bytes.len());
            self.head[self.filled..self.filled + take].copy_from_slice(&bytes[..take]);
            self.filled += take;
            bytes = &bytes[take..];
            if self.filled == self.head.len() {
                self.filled = 0;
                self.frame();
            }
        }
        self.credit >= 0
    }

    /// Since which second a head is on its way, if one is.
    pub(super) fn head_since(&self) -> Option<u32> {
        self.head_since
    }

    /// The last byte of a head may have come.
    fn ended(&mut self) {
        if self.skip == 0 && self.head_ends {
            self.head_ends = false;
            self.head_since = None;
        }
    }

    /// Bytes are on their way to the caller.
    pub(super) fn writing(&mut self) {
        self.whole = false;
    }

    /// All of them have been written.
    pub(super) fn written(&mut self) {
        self.whole = true;
    }

    /// The last frame for a caller that asks for too much (RFC 9113, 6.8); none amid another one.
    pub(super) fn farewell(&self) -> Option<[u8; 17]> {
        let mut frame = [0, 0, 8, GOAWAY, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, CALM];
        frame[9..13].copy_from_slice(&self.last.to_be_bytes());
        self.whole.then_some(frame)
    }

    /// A whole head is there.
    fn frame(&mut self) {
        let [high, middle, low, kind, flags, stream @ ..] = self.head;
        self.skip = usize::from(high) << 16 | usize::from(middle) << 8 | usize::from(low);
        if matches!(kind, HEADERS | CONTINUATION) {
            if kind == HEADERS {
                self.head_since = Some(self.second);
            }
            self.head_ends = flags & END_HEADERS != 0;
            self.ended();
        } else {
            // The first frame of all; between those of a head there is none, or the library ends the connection.
            self.head_since = None;
        }
        match kind {
            HEADERS => {
                self.credit = (self.credit + OF_REQUEST).min(CREDIT);
                self.last = self.last.max(u32::from_be_bytes(stream) & (u32::MAX >> 1));
            }
            CONTINUATION => {}
            DATA if self.skip > 0 || flags & END_STREAM != 0 => {}
            _ => self.credit -= 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{CREDIT, Guard};

    fn frame(kind: u8, flags: u8, length: u8) -> Vec<u8> {
        let mut bytes = vec![0, 0, length, kind, flags, 0, 0, 0, 1];
        bytes.resize(9 + usize::from(length), 0xff);
        bytes
    }

    fn begun() -> Guard {
        let mut guard = Guard::default();
        assert!(guard.passes(&[0; 24], 0, 0));
        guard
    }

    /// How many of these frames pass, in reads of `piece` bytes.
    fn passing(guard: &mut Guard, frame: &[u8], count: usize, piece: usize) -> usize {
        let all = frame.repeat(count);
        let mut passed = 0;
        for part in all.chunks(piece) {
            if !guard.passes(part, 0, 0) {
                break;
            }
            passed += part.len();
        }
        passed / frame.len()
    }

    #[test]
    fn frames_that_ask_for_nothing_run_out_of_credit_whatever_the_reads() {
        let credit = usize::try_from(CREDIT).unwrap();
        for (kind, flags, length) in [
            (4, 0, 0),
            (6, 0, 8),
            (2, 0, 5),
            (8, 0, 4),
            (3, 0, 4),
            (0, 0, 0),
            (77, 0, 3),
        ] {
            for piece in [1, 7, 9, 100] {
                let passed = passing(&mut begun(), &frame(kind, flags, length), 10_000, piece);
                assert!(
                    passed.abs_diff(credit) <= 12,
                    "kind {kind}, pieces of {piece}: {passed}"
                );
            }
        }
    }

    #[test]
    fn what_carries_something_costs_nothing() {
        for (kind, flags, length) in [(1, 5, 20), (0, 0, 1), (0, 1, 0), (9, 4, 3)] {
            let frame = frame(kind, flags, length);
            assert_eq!(passing(&mut begun(), &frame, 10_000, 100), 10_000);
        }
    }

    #[test]
    fn it_is_known_since_when_a_head_is_on_its_way() {
        let mut guard = Guard::default();
        assert!(guard.passes(&[0; 10], 0, 3));
        assert_eq!(guard.head_since(), Some(3), "half a preface");
        assert!(guard.passes(&[0; 14], 0, 4));
        assert_eq!(guard.head_since(), Some(3), "a preface and no frame");
        assert!(guard.passes(&frame(4, 0, 0), 0, 5));
        assert_eq!(guard.head_since(), None, "settings");
        let whole = frame(1, 5, 20);
        for piece in [1, 8, 9, 10, 28] {
            for (second, part) in (10..).zip(whole.chunks(piece)) {
                assert!(guard.passes(part, 0, second));
            }
            assert_eq!(guard.head_since(), None, "whole, in pieces of {piece}");
        }
        assert!(guard.passes(&whole[..12], 0, 20));
        assert_eq!(guard.head_since(), Some(20), "a part of its fields");
        assert!(guard.passes(&whole[12..], 0, 29));
        // Heads that follow each other are each as old as they are.
        let more = [&whole[12..], &whole[..12]].concat();
        assert!(guard.passes(&whole[..12], 0, 30));
        assert!(guard.passes(&more, 0, 39));
        assert_eq!(guard.head_since(), Some(39));
        assert!(guard.passes(&whole[12..], 0, 40));
        // Without the end, and the end at last, which has no bytes.
        assert!(guard.passes(&frame(1, 1, 20), 0, 50));
        assert!(guard.passes(&frame(9, 0, 5), 0, 55));
        assert_eq!(guard.head_since(), Some(50));
        assert!(guard.passes(&frame(9, 4, 0), 0, 59));
        assert_eq!(guard.head_since(), None);
        assert!(guard.passes(&frame(0, 0, 200)[..50], 0, 60));
        assert_eq!(guard.head_since(), None, "bodies take their time");
    }

    #[test]
    fn the_farewell_names_the_last_request_and_never_cuts_into_a_frame() {
        let mut guard = begun();
        let mut request = frame(1, 5, 3);
        request[8] = 9;
        assert!(guard.passes(&request, 0, 0));
        guard.writing();
        assert_eq!(guard.farewell(), None);
        guard.written();
        let expect = [0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0, 11];
        assert_eq!(guard.farewell(), Some(expect));
    }

    #[test]
    fn requests_answers_and_time_earn_credit() {
        let ping = frame(6, 0, 8);
        let mut guard = begun();
        for second in 1..=100 {
            assert!(guard.passes(&ping.repeat(99), 0, second), "{second}");
        }
        let mut guard = begun();
        for part in 1..=100u64 {
            assert!(
                guard.passes(&ping.repeat(60), part * 64 * 1024, 0),
                "{part}"
            );
        }
        let mut guard = begun();
        let request = [frame(1, 5, 10), frame(3, 0, 4), frame(2, 0, 5)].concat();
        assert!(guard.passes(&request.repeat(10_000), 0, 0));
        // What was earned is not hoarded.
        assert!(guard.passes(&[], 1 << 40, 1_000_000));
        assert!(!guard.passes(&ping.repeat(2_001), 1 << 40, 1_000_000));
    }
}
