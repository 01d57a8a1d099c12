//! The tokens of a corpus, and the file that keeps them: a text is tokenised once.

use std::collections::BTreeMap;
use std::path::Path;

use super::fingerprint::fnv;
use crate::checkpoint::{TensorToSave, load_tensors, save_tensors};
use crate::error::{Error, Result};

/// Text that is tokenised at a time: a tokenizer needs many times the memory of its text.
const PIECE: usize = 1 << 20;

/// The tokens to train on and those held out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct TokenIds {
    pub train: Vec<u32>,
    pub validation: Vec<u32>,
    /// The fingerprints of the text and the tokenizer.
    source: (u64, u64),
    /// Whether they came from a file.
    kept: bool,
}

impl TokenIds {
    /// Tokenises both parts, piece by piece; a piece ends with a line, where there is one.
    ///
    /// # Errors
    /// Those of `encode`.
    pub fn new(parts: [&[u8]; 2], source: (u64, u64), encode: impl Fn(&[u8]) -> Result<Vec<u32>>) -> Result<Self> {
        let tokens = |text: &[u8]| -> Result<Vec<u32>> {
            let (mut tokens, mut at) = (Vec::new(), 0);
            while at < text.len() {
                let end = piece(&text[at..], PIECE);
                tokens.extend(encode(&text[at..at + end])?);
                at += end;
            }
            Ok(tokens)
        };
        Ok(Self { train: tokens(parts[0])?, validation: tokens(parts[1])?, source, kept: false })
    }

    /// Those that the file has, if it is there, whole, and of this text and tokenizer.
    pub fn read(path: &Path, source: (u64, u64)) -> Option<Self> {
        let found = path.exists().then(|| Self::open(path, source))?;
        if let Err(error) = &found {
            log::warn!("{error}; the text is tokenised again");
        }
        found.ok()
    }

    fn open(path: &Path, source: (u64, u64)) -> Result<Self> {
        let file = load_tensors(path)?;
        for (name, value) in entries(source) {
            let found = file.entry(&name)?;
            if found != value {
                return Err(Error::checkpoint(path, format!("expected the tokens of {name} {value}, found {found}")));
            }
        }
        let tokens = |name| file.get_u32(name).map(|(_, tokens)| tokens);
        Ok(Self { train: tokens("train")?, validation: tokens("validation")?, source, kept: true })
    }

    /// Writes them to a file, which is there as a whole or not at all; nothing where they came from one.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Checkpoint`].
    pub fn save(&self, path: &Path) -> Result<()> {
        if self.kept {
            return Ok(());
        }
        let shapes = [[self.train.len()], [self.validation.len()]];
        let tensors = [
            TensorToSave::u32("train", &shapes[0], &self.train),
            TensorToSave::u32("validation", &shapes[1], &self.validation),
        ];
        let unfinished = path.with_extension("unfinished");
        let written = save_tensors(&unfinished, &tensors, &entries(self.source))
            .and_then(|()| std::fs::rename(&unfinished, path).map_err(Error::io("renaming", &unfinished)));
        if written.is_err() {
            // The failure that matters is the first one.
            let _ = std::fs::remove_file(&unfinished);
        }
        written
    }

    /// FNV-1a over all tokens and the split.
    pub fn fingerprint(&self) -> u64 {
        let split = (self.train.len() as u64).to_le_bytes();
        fnv([split.as_slice(), bytemuck::cast_slice(&self.train), bytemuck::cast_slice(&self.validation)])
    }
}

/// The metadata of the file.
fn entries((text, tokenizer): (u64, u64)) -> BTreeMap<String, String> {
    let hexadecimal = |x| format!("{x:016x}");
    BTreeMap::from([("text".to_owned(), hexadecimal(text)), ("tokenizer".to_owned(), hexadecimal(tokenizer))])
}

/// The bytes at the beginning of a text that belong to a character of UTF-8 before it.
pub(super) fn character_rest(text: &[u8]) -> usize {
    text.iter().take_while(|b| **b & 0xC0 == 0x80).count()
}

/// The length of the first piece of a text that is not empty: at least `least` bytes where there are so many, up to the end of
/// a line, or else of a character.
fn piece(text: &[u8], least: usize) -> usize {
    let Some(rest) = text.get(least..) else { return text.len() };
    if let Some(line) = rest.iter().take(least).position(|b| *b == b'\n') {
        return least + line + 1;
    }
    least + character_rest(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_end_with_lines_or_else_with_characters() {
        assert_eq!(piece(b"ab\ncd\nef", 4), 6);
        assert_eq!(piece(b"ab\ncd\nef", 40), 8);
        assert_eq!(piece("äöüäöü".as_bytes(), 3), 4);
        assert_eq!(piece(b"abcdef\n", 2), 2, "a line end that is far is not waited for");
    }

    #[test]
    fn a_file_serves_the_text_and_the_tokenizer_that_it_is_of() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("tokens.safetensors");
        let encode = |text: &[u8]| Ok(text.iter().map(|b| u32::from(*b) + 1000).collect());
        assert_eq!(TokenIds::read(&path, (1, 2)), None);
        let tokens = TokenIds::new([b"abc", b"de"], (1, 2), encode).unwrap();
        tokens.save(&path).unwrap();
        let read = TokenIds::read(&path, (1, 2)).unwrap();
        assert_eq!(read, TokenIds { kept: true, ..tokens.clone() });
        assert_eq!((read.fingerprint(), read.train), (tokens.fingerprint(), vec![1097, 1098, 1099]));
        assert_eq!((TokenIds::read(&path, (3, 2)), TokenIds::read(&path, (1, 3))), (None, None));
        std::fs::write(&path, "damaged").unwrap();
        assert_eq!(TokenIds::read(&path, (1, 2)), None);
        tokens.save(&path).unwrap();
        assert!(TokenIds::read(&path, (1, 2)).is_some());
        assert_eq!(std::fs::read_dir(temp.path()).unwrap().count(), 1, "nothing else is left");
    }
}
