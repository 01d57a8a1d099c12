//! The byte tokenizer: token `t` is byte `t`, so the vocabulary is 256 and nothing can be out of it.

/// Bytes as tokens.
pub fn encode(bytes: &[u8]) -> Vec<u32> {
    bytes.iter().map(|b| u32::from(*b)).collect()
}

/// Tokens as bytes; a token beyond 255 keeps its low byte, as a wider vocabulary has no byte for it.
pub fn decode(tokens: &[u32]) -> Vec<u8> {
    tokens.iter().map(|t| *t as u8).collect()
}

/// Tokens as text for a terminal: what is not UTF-8 and control characters other than line ends and tabs become
/// `\u{FFFD}`.
pub fn printable(tokens: &[u32]) -> String {
    without_controls(&String::from_utf8_lossy(&decode(tokens)))
}

fn without_controls(text: &str) -> String {
    let shown = |c: char| if c.is_control() && c != '\n' && c != '\t' { char::REPLACEMENT_CHARACTER } else { c };
    text.chars().map(shown).collect()
}

/// [`printable`] for bytes that come one at a time: holds a character back until its last byte is there.
#[derive(Clone, Debug, Default)]
pub struct Printer {
    pending: Vec<u8>,
}

impl Printer {
    /// The text that `byte` completes; often one character, sometimes none.
    pub fn push(&mut self, byte: u8) -> String {
        self.pending.push(byte);
        match std::str::from_utf8(&self.pending) {
            Err(e) if e.error_len().is_none() => String::new(),
            _ => self.finish(),
        }
    }

    /// Returns what is left at the end.
    pub fn finish(&mut self) -> String {
        without_controls(&String::from_utf8_lossy(&std::mem::take(&mut self.pending)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_survives_the_round_trip() {
        let bytes: Vec<u8> = (0..=255).collect();
        assert_eq!(decode(&encode(&bytes)), bytes);
    }

    #[test]
    fn escape_sequences_and_broken_utf8_do_not_reach_the_terminal() {
        assert_eq!(printable(&encode(b"a\x1b[2J\xffz\n")), "a\u{FFFD}[2J\u{FFFD}z\n");
    }

    #[test]
    fn a_stream_shows_what_the_whole_shows() {
        for bytes in [&b"plain"[..], "aä€😀b".as_bytes(), b"\xe2\x82", b"\xffa\x1b\n", b"a\xc3"] {
            let mut printer = Printer::default();
            let mut text: String = bytes.iter().map(|b| printer.push(*b)).collect();
            text += &printer.finish();
            assert_eq!(text, printable(&encode(bytes)));
        }
    }
}
