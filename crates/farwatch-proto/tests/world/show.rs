// SPDX-License-Identifier: Apache-2.0 OR MIT
//! [`show`]: makes the `Debug` form of the crate's types short enough to be read in a trace.

/// `n2/x` for an entry of the guest's, `2/x` for one of the host's, and so on.
pub(crate) fn show(text: &str) -> String {
    const PARTS: [(&str, &str); 14] = [
        ("fid 7.0/1:", ""),
        (", generation: Generation(0) }", ""),
        (", generation: Generation(1) }", ""),
        ("Node { id: ", ""),
        ("HostEntry { dir: ", ""),
        ("Entry { dir: ", ""),
        (", name: \"", "/"),
        ("WatchId(", "(wd "),
        ("Mask(", "("),
        ("entry: ", ""),
        ("Some(", "("),
        (", cookie: None", ""),
        ("Notification ", ""),
        (", link: false", ""),
    ];
    let mut text = text.to_owned();
    for (part, short) in PARTS {
        if text.contains(part) {
            text = text.replace(part, short);
        }
    }
    for (end, short) in [("\" }", ""), ("\"", "")] {
        text = text.replace(end, short);
    }
    without_zeros(&text)
}

/// Numbers of objects have 16 hexadecimal digits.
fn without_zeros(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("0000000000") {
        out.push_str(&rest[..at]);
        rest = rest[at..].trim_start_matches('0');
        if !rest.starts_with(|c: char| c.is_ascii_hexdigit()) {
            out.push('0');
        }
    }
    out.push_str(rest);
    out
}
