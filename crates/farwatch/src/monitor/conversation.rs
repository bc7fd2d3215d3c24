// SPDX-License-Identifier: Apache-2.0 OR MIT
//! [`Conversation`]: one connection without its socket: what has come, what is to go, and when it has been quiet for
//! too long. `server` moves the bytes.

use std::time::{Duration, Instant};

use super::http;
use super::protocol::{REPLY_LEN_MAX, REQUEST_LEN_MAX, Reply, encode};

/// How long a request may take to come in full, or a reply to be taken.
const STALLED_MAX: Duration = Duration::from_secs(5);

/// What is spoken on a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Language {
    /// A line of JSON a request, and a line a reply.
    Lines,
    /// One HTTP request for the metrics.
    Http,
}

/// What a conversation asks for.
pub(super) trait Answers {
    /// The reply to a line.
    fn reply(&self, line: &[u8]) -> Reply;
    /// The metrics.
    fn metrics(&self) -> String;
}

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Conversation {
    language: Language,
    input: Vec<u8>,
    output: Vec<u8>,
    /// So many bytes of `output` have gone.
    gone: usize,
    /// It ends when `output` has gone.
    ends: bool,
    /// When it last made progress.
    moved: Instant,
}

impl Conversation {
    pub(super) fn new(language: Language, now: Instant) -> Self {
        let (input, output) = (Vec::new(), Vec::new());
        Self { language, input, output, gone: 0, ends: false, moved: now }
    }

    /// What is to be written. While there is something, nothing is read: a client that does not take its replies can
    /// ask for no more.
    pub(super) fn output(&self) -> &[u8] {
        &self.output[self.gone..]
    }

    /// So many bytes of the output were written.
    pub(super) fn wrote(&mut self, now: Instant, len: usize, answers: &dyn Answers) {
        self.gone += len;
        self.moved = now;
        if self.output().is_empty() {
            self.output = Vec::new();
            self.gone = 0;
            // What came together with the last request.
            self.answer(answers);
        }
    }

    /// These bytes were read.
    pub(super) fn read(&mut self, now: Instant, bytes: &[u8], answers: &dyn Answers) {
        self.input.extend_from_slice(bytes);
        self.moved = now;
        self.answer(answers);
    }

    /// Whether the connection is to be closed.
    pub(super) fn is_over(&self, now: Instant) -> bool {
        let is_stalled = self.deadline().is_some_and(|deadline| deadline <= now);
        (self.ends && self.output().is_empty()) || is_stalled
    }

    /// When it is closed unless it makes progress; `None` while nothing is expected of it.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let waits = !self.input.is_empty() || !self.output().is_empty();
        let waits = waits || self.language == Language::Http;
        waits.then(|| self.moved + STALLED_MAX)
    }

    /// When it last made progress: at the limit of connections, the one that has been quiet for longest goes.
    pub(super) fn moved(&self) -> Instant {
        self.moved
    }

    fn answer(&mut self, answers: &dyn Answers) {
        if self.ends || !self.output.is_empty() {
            return;
        }
        match self.language {
            Language::Lines => self.answer_line(answers),
            Language::Http => self.answer_http(answers),
        }
    }

    fn answer_line(&mut self, answers: &dyn Answers) {
        let Some(len) = self.input.iter().position(|byte| *byte == b'\n') else {
            // A line that is too long is not searched for its end.
            self.ends = self.input.len() >= REQUEST_LEN_MAX;
            return;
        };
        let line: Vec<u8> = self.input.drain(..=len).collect();
        self.output = encode(&answers.reply(&line));
        self.ends = self.output.len() > REPLY_LEN_MAX;
        if self.ends {
            self.output = Vec::new();
        }
    }

    fn answer_http(&mut self, answers: &dyn Answers) {
        match http::parse(&self.input) {
            Some(request) => {
                self.output = http::response(request, || answers.metrics());
                self.ends = true;
            }
            None => self.ends = self.input.len() >= http::REQUEST_LEN_MAX,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::protocol::{Answer, VERSION};
    use super::*;

    /// Says what it was asked.
    struct Echo;

    impl Answers for Echo {
        fn reply(&self, line: &[u8]) -> Reply {
            let line = String::from_utf8_lossy(line).trim().to_owned();
            Reply { version: VERSION, answer: Answer::Error(line) }
        }

        fn metrics(&self) -> String {
            "a 1\n".to_owned()
        }
    }

    fn lines() -> (Conversation, Instant) {
        let now = Instant::now();
        (Conversation::new(Language::Lines, now), now)
    }

    fn said(conversation: &Conversation) -> String {
        String::from_utf8_lossy(conversation.output()).into_owned()
    }

    fn take(conversation: &mut Conversation, now: Instant) {
        conversation.wrote(now, conversation.output().len(), &Echo);
    }

    #[test]
    fn request_that_comes_in_pieces_is_answered_when_its_line_ends() {
        let (mut conversation, now) = lines();
        conversation.read(now, b"ab", &Echo);
        assert_eq!(said(&conversation), "");
        conversation.read(now, b"c\n", &Echo);
        assert_eq!(said(&conversation), "{\"version\":1,\"error\":\"abc\"}\n");
    }

    #[test]
    fn second_request_is_answered_when_the_first_reply_was_taken() {
        let (mut conversation, now) = lines();
        conversation.read(now, b"a\nb\n", &Echo);
        assert!(said(&conversation).contains("\"a\""));
        conversation.wrote(now, 3, &Echo);
        assert!(!said(&conversation).contains("\"b\""), "the first is still to go");
        take(&mut conversation, now);
        assert!(said(&conversation).contains("\"b\""));
        take(&mut conversation, now);
        assert!(!conversation.is_over(now), "more may be asked");
    }

    #[test]
    fn line_without_an_end_ends_the_connection_at_the_limit() {
        let (mut conversation, now) = lines();
        conversation.read(now, &[b'a'; REQUEST_LEN_MAX - 1], &Echo);
        assert!(!conversation.is_over(now));
        conversation.read(now, b"a", &Echo);
        assert!(conversation.is_over(now));
    }

    #[test]
    fn client_that_takes_no_reply_is_left_after_a_while_and_a_quiet_one_is_not() {
        let (mut conversation, now) = lines();
        let late = now + STALLED_MAX;
        assert!(!conversation.is_over(late), "nothing was asked");
        conversation.read(now, b"a\n", &Echo);
        assert!(!conversation.is_over(late - Duration::from_millis(1)));
        assert!(conversation.is_over(late));
        take(&mut conversation, late);
        assert_eq!(conversation.deadline(), None);
    }

    #[test]
    fn scrape_is_answered_once_and_ends() {
        let now = Instant::now();
        let mut conversation = Conversation::new(Language::Http, now);
        conversation.read(now, b"GET /metrics HTTP/1.1\r\n", &Echo);
        assert_eq!(said(&conversation), "");
        conversation.read(now, b"\r\nGET / HTTP/1.1\r\n\r\n", &Echo);
        assert!(said(&conversation).ends_with("\r\n\r\na 1\n"));
        assert!(!conversation.is_over(now));
        take(&mut conversation, now);
        assert_eq!(said(&conversation), "");
        assert!(conversation.is_over(now));
    }

    proptest! {
        #[test]
        fn no_bytes_make_a_conversation_keep_more_than_a_request(
            pieces in prop::collection::vec(
                prop_oneof![
                    (Just(b'a'), 0..5000_usize),
                    (prop::sample::select(vec![b'\n', b'\r', 0, 0xff]), 0..4_usize),
                ],
                0..12,
            ),
            http in any::<bool>(),
        ) {
            let now = Instant::now();
            let language = if http { Language::Http } else { Language::Lines };
            let mut conversation = Conversation::new(language, now);
            let piece_max = pieces.iter().map(|(_, len)| *len).max().unwrap_or_default();
            for (byte, len) in pieces {
                // As the thread does: nothing is read while something is to be written.
                while !conversation.output().is_empty() {
                    take(&mut conversation, now);
                }
                if conversation.is_over(now) {
                    break;
                }
                conversation.read(now, &vec![byte; len], &Echo);
                prop_assert!(conversation.input.len() < http::REQUEST_LEN_MAX + piece_max + 1);
            }
        }
    }

    #[test]
    fn scraper_that_sends_nothing_is_disconnected() {
        let now = Instant::now();
        let conversation = Conversation::new(Language::Http, now);
        assert!(conversation.is_over(now + STALLED_MAX));
    }
}
