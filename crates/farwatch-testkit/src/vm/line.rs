// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The lines between a test and the observer in its virtual machine: a serial port carries them.
//!
//! A request is one line of words. An answer is any number of lines of words, each marked `+`, and a
//! last one, `ok` or `error TEXT`. In a word, every byte but letters, digits and a few others is
//! written as `%` and two hexadecimal digits, so that names of any bytes can be carried.

use std::ffi::{OsStr, OsString};
use std::fmt::Write as _;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};

use anyhow::{Context as _, Result};

/// A word of its own for the empty one.
const EMPTY: &str = "%";

/// Words as a line, without its end.
pub(crate) fn encode<W: AsRef<OsStr>>(words: impl IntoIterator<Item = W>) -> String {
    let words = words.into_iter().map(|word| encode_word(word.as_ref()));
    words.collect::<Vec<_>>().join(" ")
}

fn encode_word(word: &OsStr) -> String {
    if word.is_empty() {
        return EMPTY.to_owned();
    }
    let mut text = String::new();
    for byte in word.as_bytes() {
        match byte {
            b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z' => text.push(char::from(*byte)),
            b'/' | b'.' | b'_' | b'-' | b'=' | b',' => text.push(char::from(*byte)),
            _ => write!(text, "%{byte:02x}").expect("writing to a string cannot fail"),
        }
    }
    text
}

/// The words of a line.
pub(crate) fn decode(line: &str) -> Result<Vec<OsString>> {
    line.split_ascii_whitespace().map(decode_word).collect()
}

fn decode_word(word: &str) -> Result<OsString> {
    if word == EMPTY {
        return Ok(OsString::new());
    }
    let mut bytes = Vec::new();
    let mut rest = word.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let digits = [rest.next(), rest.next()].map(|digit| digit.unwrap_or(b'?'));
        let digits = std::str::from_utf8(&digits).unwrap_or_default();
        bytes.push(u8::from_str_radix(digits, 16).with_context(|| word.to_owned())?);
    }
    Ok(OsString::from_vec(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_any_bytes_come_back() {
        let every: Vec<u8> = (0..=255).collect();
        let words = ["run", "", "a b\nc%", "ça"].map(OsString::from);
        let words = [&words[..], &[OsString::from_vec(every)]].concat();
        let line = encode(&words);
        assert!(line.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' '), "{line}");
        assert_eq!(decode(&line).unwrap(), words);
    }

    #[test]
    fn half_an_escape_is_refused() {
        assert!(decode("a%4").is_err());
        assert!(decode("a%zz").is_err());
    }
}
