//! The corpus: files and folders, joined in a fixed order, with the end of each file held out for validation; as bytes, or
//! as the tokens of a tokenizer.

use std::path::{Path, PathBuf};

use super::fingerprint::fnv;
pub use super::text::{Text, read};
use super::text_tokenizer::TextTokenizer;
use super::token_ids::{TokenIds, character_rest};
use super::tokens::Tokens;
use crate::error::Result;

/// The shortest end of a file that is held out: fewer bytes say little, as their context is cut off.
const SHORTEST_END: usize = 64;

/// Text to train on and text held out.
#[derive(Clone, Debug)]
pub struct Corpus {
    /// The parts to train on of all files, then their held-out ends; beside tokens the latter alone.
    bytes: Vec<u8>,
    split: usize,
    /// The tokens of both parts, of a corpus that is not of bytes.
    tokens: Option<TokenIds>,
    description: String,
    /// How the held-out part came about, for a person; nothing where there is one file.
    ends: String,
}

impl Corpus {
    /// Reads `paths` (none: the project's own sources) and holds out the share `validation_fraction` of each file, from
    /// its end. A file whose end would be shorter than 64 bytes goes whole to training; where all are so short, the end
    /// of all of them joined is held out.
    ///
    /// # Errors
    /// As [`read`].
    pub fn load(paths: &[PathBuf], validation_fraction: f64) -> Result<Self> {
        Ok(Self::from_text(read(paths)?, validation_fraction, byte))
    }

    /// As [`Corpus::load`], as the tokens of `tokenizer`, without those that it puts around a text; a file is held out from the
    /// beginning of a character on. Tokens that `cache` has of this text and this tokenizer are taken from there; see
    /// [`Corpus::save_tokens`].
    ///
    /// # Errors
    /// As [`read`]; [`crate::Error::Data`] for text that the tokenizer cannot read.
    pub fn tokenized(
        paths: &[PathBuf],
        validation_fraction: f64,
        tokenizer: &TextTokenizer,
        cache: Option<&Path>,
    ) -> Result<Self> {
        let Some(fingerprint) = tokenizer.fingerprint() else { return Self::load(paths, validation_fraction) };
        let mut corpus = Self::from_text(read(paths)?, validation_fraction, character);
        let source = (corpus.fingerprint(), fingerprint);
        let cached = cache.and_then(|path| TokenIds::read(path, source));
        let parts = [corpus.text_to_train_on(), corpus.held_out()];
        let tokens = match cached {
            Some(tokens) => tokens,
            None => TokenIds::new(parts, source, |text| tokenizer.encode(text, false))?,
        };
        corpus.tokens = Some(tokens);
        corpus.bytes.drain(..corpus.split);
        corpus.split = 0;
        Ok(corpus)
    }

    fn from_text(text: Text, validation_fraction: f64, cut: Cut) -> Self {
        let Text { mut bytes, mut lengths, description } = text;
        // An empty file has no end.
        lengths.retain(|n| *n > 0);
        let mut at = 0;
        let ends: Vec<usize> = lengths
            .iter()
            .map(|n| {
                at += n;
                cut(&bytes[at - n..at], end(*n, validation_fraction))
            })
            .collect();
        let (files, long) = (lengths.len(), ends.iter().filter(|e| **e >= SHORTEST_END).count());
        if files <= 1 || long == 0 {
            let held_out = cut(&bytes, end(bytes.len(), validation_fraction));
            let mut corpus = Self::of_bytes(bytes, held_out, description);
            if files > 1 {
                corpus.ends = ", the end of all joined, as none is long enough on its own".into();
            }
            return corpus;
        }
        let (mut at, mut split, mut held_out) = (0, 0, Vec::new());
        for (length, end) in lengths.into_iter().zip(ends) {
            let end = if end < SHORTEST_END { 0 } else { end };
            held_out.extend_from_slice(&bytes[at + length - end..at + length]);
            bytes.copy_within(at..at + length - end, split);
            (at, split) = (at + length, split + length - end);
        }
        bytes.truncate(split);
        bytes.extend(held_out);
        let ends = match files - long {
            0 => ", the end of each file".to_owned(),
            1 => format!(", the end of each of {long} files; 1 too short for that goes whole to training"),
            short => format!(", the end of each of {long} files; {short} too short for that go whole to training"),
        };
        Self { bytes, split, tokens: None, description, ends }
    }

    /// A corpus from bytes that are already there, as one file: the last `validation_fraction` of them is held out.
    pub fn from_bytes(bytes: Vec<u8>, validation_fraction: f64, description: String) -> Self {
        let held_out = end(bytes.len(), validation_fraction);
        Self::of_bytes(bytes, held_out, description)
    }

    fn of_bytes(bytes: Vec<u8>, held_out: usize, description: String) -> Self {
        let split = bytes.len() - held_out;
        Self { bytes, split, tokens: None, description, ends: String::new() }
    }

    /// The tokens to train on.
    pub fn train(&self) -> Tokens<'_> {
        match &self.tokens {
            Some(tokens) => Tokens::Ids(&tokens.train),
            None => Tokens::Bytes(self.text_to_train_on()),
        }
    }

    /// The tokens held out.
    pub fn validation(&self) -> Tokens<'_> {
        match &self.tokens {
            Some(tokens) => Tokens::Ids(&tokens.validation),
            None => Tokens::Bytes(self.held_out()),
        }
    }

    fn text_to_train_on(&self) -> &[u8] {
        &self.bytes[..self.split]
    }

    /// The text held out.
    pub fn held_out(&self) -> &[u8] {
        &self.bytes[self.split..]
    }

    /// The bytes that a held-out token stands for, on average: 1 in a corpus of bytes.
    pub fn bytes_per_token(&self) -> f64 {
        match self.validation().len() {
            0 => 1.0,
            tokens => self.held_out().len() as f64 / tokens as f64,
        }
    }

    /// Writes the tokens to `path`, for [`Corpus::tokenized`] to find; nothing for a corpus of bytes, or where they came from
    /// there.
    ///
    /// # Errors
    /// [`crate::Error::Io`]; [`crate::Error::Checkpoint`].
    pub fn save_tokens(&self, path: &Path) -> Result<()> {
        self.tokens.as_ref().map_or(Ok(()), |tokens| tokens.save(path))
    }

    /// Where the text came from, and how much it is, for a person.
    pub fn description(&self) -> String {
        let (train, held_out) = (self.train().len(), self.validation().len());
        let unit = self.train().unit();
        format!("{}: {train} {unit} to train on, {held_out} held out{}", self.description, self.ends)
    }

    /// FNV-1a over the text, or its tokens, and the split: shows whether a resumed run sees the data that it was started with.
    pub fn fingerprint(&self) -> u64 {
        match &self.tokens {
            Some(tokens) => tokens.fingerprint(),
            None => fnv([(self.split as u64).to_le_bytes().as_slice(), &self.bytes]),
        }
    }

    /// Checks that both parts hold at least one sequence and the byte after it.
    ///
    /// # Errors
    /// [`crate::Error::Data`] with what is needed and what there is.
    pub fn require(&self, seq: usize) -> Result<()> {
        self.train().require(seq, "the part to train on")?;
        self.validation().require(seq, "the held-out part (data.validation_fraction)")
    }
}

/// Where a file may be cut: from its bytes and how many of them are to be held out, how many are.
type Cut = fn(&[u8], usize) -> usize;

/// Between any two bytes.
fn byte(_: &[u8], held_out: usize) -> usize {
    held_out
}

/// Before a character of UTF-8.
fn character(bytes: &[u8], held_out: usize) -> usize {
    held_out - character_rest(&bytes[bytes.len() - held_out..])
}

/// How many of a file's bytes are held out.
fn end(length: usize, validation_fraction: f64) -> usize {
    let held_out = (length as f64 * validation_fraction.clamp(0.0, 1.0)).round() as usize;
    held_out.min(length)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_part_is_held_out() {
        let corpus = Corpus::from_bytes((0..100).collect(), 0.1, String::new());
        assert_eq!((corpus.train().len(), corpus.held_out()), (90, &(90..100).collect::<Vec<u8>>()[..]));
        corpus.require(9).unwrap();
        let message = corpus.require(10).unwrap_err().to_string();
        assert!(message.contains("at least 11 bytes (seq + 1), got 10"), "{message}");
        assert_ne!(corpus.fingerprint(), Corpus::from_bytes((0..100).collect(), 0.2, String::new()).fingerprint());
    }

    #[test]
    fn the_project_itself_is_the_default() {
        let corpus = Corpus::load(&[], 0.1).unwrap();
        corpus.require(512).unwrap();
        assert!(!corpus.text_to_train_on().contains(&b'\r'));
    }

    fn text(lengths: &[usize]) -> Text {
        let bytes = lengths.iter().enumerate().flat_map(|(i, n)| vec![i as u8; *n]).collect();
        Text { bytes, lengths: lengths.to_vec(), description: "files".into() }
    }

    #[test]
    fn the_end_of_every_file_is_held_out_and_short_ones_go_whole_to_training() {
        let corpus = Corpus::from_text(text(&[1000, 639, 5000, 10]), 0.1, byte);
        let count = |bytes: &[u8], file: u8| bytes.iter().filter(|b| **b == file).count();
        let parts = |file| (count(corpus.text_to_train_on(), file), count(corpus.held_out(), file));
        assert_eq!([0, 1, 2, 3].map(parts), [(900, 100), (575, 64), (4500, 500), (10, 0)]);
        let wanted = "files: 5985 bytes to train on, 664 held out, the end of each of 3 files; \
                      1 too short for that goes whole to training";
        assert_eq!(corpus.description(), wanted);
        let all = Corpus::from_text(text(&[1000, 2000]), 0.1, byte);
        assert_eq!(all.description(), "files: 2700 bytes to train on, 300 held out, the end of each file");
        assert!(all.text_to_train_on().is_sorted() && all.held_out().is_sorted(), "in their order");
    }

    #[test]
    fn where_every_file_is_short_the_end_of_all_of_them_is_held_out() {
        let corpus = Corpus::from_text(text(&[500; 10]), 0.1, byte);
        assert_eq!((corpus.train().len(), corpus.held_out()), (4500, &[9; 500][..]));
        assert!(
            corpus.description().ends_with("500 held out, the end of all joined, as none is long enough on its own")
        );
    }

    #[test]
    fn the_fingerprint_knows_where_files_end() {
        let of = |lengths: &[usize]| {
            let bytes = (0..4000).map(|i| (i * i % 251) as u8).collect();
            let text = Text { bytes, lengths: lengths.to_vec(), description: String::new() };
            Corpus::from_text(text, 0.1, byte).fingerprint()
        };
        assert_eq!(of(&[1000, 3000]), of(&[1000, 3000]));
        assert_ne!(of(&[1000, 3000]), of(&[4000]));
        assert_ne!(of(&[1000, 3000]), of(&[3000, 1000]));
    }

    #[test]
    fn with_a_tokenizer_a_file_is_cut_between_characters() {
        let umlauts = "ä".repeat(100).into_bytes();
        assert_eq!([9, 10, 0, 200].map(|n| character(&umlauts, n)), [8, 10, 0, 200]);
        assert_eq!([9, 10].map(|n| byte(&umlauts, n)), [9, 10]);
        // No UTF-8: the tokenizer will say so.
        assert_eq!(character(&[0x80; 10], 3), 0);
    }
}
