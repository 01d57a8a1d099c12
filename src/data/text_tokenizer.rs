//! Text as tokens and back: bytes, or the tokenizer of a published model.

use std::path::Path;

#[cfg(feature = "tokenizer")]
use super::hub_tokenizer::{HubTokenizer, Message, TextStream};
use super::tokenizer::{Printer, encode};
use crate::error::{Error, Result};

/// The file of a tokenizer.
pub const TOKENIZER_FILE: &str = "tokenizer.json";

/// The tokenizer of a model.
#[derive(Debug, Default)]
#[non_exhaustive]
pub enum TextTokenizer {
    /// Token `t` is byte `t`.
    #[default]
    Bytes,
    /// That of a `tokenizer.json`.
    #[cfg(feature = "tokenizer")]
    Hub(Box<HubTokenizer>),
}

impl TextTokenizer {
    /// The tokenizer of a `tokenizer.json`, or of the folder that has one.
    ///
    /// # Errors
    /// [`Error::Data`] names a file that is damaged or too long, or says that the crate's feature `tokenizer` is off;
    /// [`Error::Io`].
    pub fn open(path: &Path) -> Result<Self> {
        let file = if path.is_dir() { path.join(TOKENIZER_FILE) } else { path.to_owned() };
        hub(&file)
    }

    /// The tokenizer of a folder: bytes where it has no `tokenizer.json`.
    ///
    /// # Errors
    /// As [`TextTokenizer::open`].
    pub fn of_folder(folder: &Path) -> Result<Self> {
        let file = folder.join(TOKENIZER_FILE);
        if file.exists() { hub(&file) } else { Ok(TextTokenizer::Bytes) }
    }

    /// A number that another tokenizer does not give; none for bytes.
    pub fn fingerprint(&self) -> Option<u64> {
        match self {
            TextTokenizer::Bytes => None,
            #[cfg(feature = "tokenizer")]
            TextTokenizer::Hub(hub) => Some(hub.fingerprint()),
        }
    }

    /// Its `tokenizer.json`, which may have another name; none for bytes.
    pub fn path(&self) -> Option<&Path> {
        match self {
            TextTokenizer::Bytes => None,
            #[cfg(feature = "tokenizer")]
            TextTokenizer::Hub(hub) => Some(hub.path()),
        }
    }

    /// Checks that a model of `vocab` tokens has one for each of the tokenizer's.
    ///
    /// # Errors
    /// [`Error::Data`].
    pub fn require_vocab(&self, vocab: usize) -> Result<()> {
        let tokens = self.vocab();
        if tokens > vocab {
            let message = format!("expected a tokenizer of at most the model's {vocab} tokens, got one of {tokens}");
            return Err(Error::Data(message));
        }
        Ok(())
    }

    /// The name of a token: `byte` or `token`.
    pub fn unit(&self) -> &'static str {
        match self {
            TextTokenizer::Bytes => "byte",
            #[cfg(feature = "tokenizer")]
            TextTokenizer::Hub(_) => "token",
        }
    }

    /// One more than the largest token.
    pub fn vocab(&self) -> usize {
        match self {
            TextTokenizer::Bytes => 256,
            #[cfg(feature = "tokenizer")]
            TextTokenizer::Hub(hub) => hub.vocab(),
        }
    }

    /// The tokens of a text; `special` adds those that the tokenizer puts around every text, where it has such.
    ///
    /// # Errors
    /// [`Error::Data`] where the text is not UTF-8 and the tokenizer needs that.
    pub fn encode(&self, text: &[u8], special: bool) -> Result<Vec<u32>> {
        let _ = special;
        match self {
            TextTokenizer::Bytes => Ok(encode(text)),
            #[cfg(feature = "tokenizer")]
            TextTokenizer::Hub(hub) => hub.encode(utf8(text)?, special),
        }
    }

    /// The tokens of a chat of one message of the user, up to where the answer begins.
    ///
    /// # Errors
    /// [`Error::Data`] without a chat template, or where it fails.
    pub fn chat(&self, text: &[u8]) -> Result<Vec<u32>> {
        match self {
            TextTokenizer::Bytes => {
                let _ = text;
                Err(Error::Data("expected a tokenizer with a chat template, found a model of bytes".into()))
            }
            #[cfg(feature = "tokenizer")]
            TextTokenizer::Hub(hub) => {
                let message = Message { role: "user".into(), content: utf8(text)?.to_owned() };
                hub.chat(&[message], true)
            }
        }
    }

    /// The token that ends a text, where the tokenizer names one.
    pub fn eos(&self) -> Option<u32> {
        match self {
            TextTokenizer::Bytes => None,
            #[cfg(feature = "tokenizer")]
            TextTokenizer::Hub(hub) => hub.eos(),
        }
    }

    /// Text from tokens that come one at a time.
    pub fn stream(&self) -> TokenPrinter<'_> {
        match self {
            TextTokenizer::Bytes => TokenPrinter::Bytes(Printer::default(), std::marker::PhantomData),
            #[cfg(feature = "tokenizer")]
            TextTokenizer::Hub(hub) => TokenPrinter::Hub(hub.stream()),
        }
    }
}

#[cfg(feature = "tokenizer")]
fn hub(file: &Path) -> Result<TextTokenizer> {
    Ok(TextTokenizer::Hub(Box::new(HubTokenizer::open(file)?)))
}

#[cfg(not(feature = "tokenizer"))]
fn hub(file: &Path) -> Result<TextTokenizer> {
    let message = "it needs the crate's feature `tokenizer`, which is off";
    Err(Error::Data(format!("{}: {message}", file.display())))
}

#[cfg(feature = "tokenizer")]
fn utf8(text: &[u8]) -> Result<&str> {
    let bad = |e: std::str::Utf8Error| Error::Data(format!("expected UTF-8 for this model's tokenizer: {e}"));
    std::str::from_utf8(text).map_err(bad)
}

/// Text from tokens that come one at a time; a character is held back until all of it is there.
#[derive(Debug)]
#[non_exhaustive]
pub enum TokenPrinter<'a> {
    /// From bytes.
    Bytes(Printer, std::marker::PhantomData<&'a ()>),
    /// From the tokens of a `tokenizer.json`.
    #[cfg(feature = "tokenizer")]
    Hub(TextStream<'a>),
}

impl TokenPrinter<'_> {
    /// The text that `token` completes.
    ///
    /// # Errors
    /// [`Error::Data`] where the tokenizer's decoder fails.
    pub fn push(&mut self, token: u32) -> Result<String> {
        match self {
            // Beyond the bytes there is no text: a byte that no UTF-8 has.
            TokenPrinter::Bytes(printer, _) => Ok(printer.push(u8::try_from(token).unwrap_or(0xff))),
            #[cfg(feature = "tokenizer")]
            TokenPrinter::Hub(stream) => stream.push(token),
        }
    }

    /// Returns what is left at the end.
    ///
    /// # Errors
    /// As [`TokenPrinter::push`].
    pub fn finish(&mut self) -> Result<String> {
        match self {
            TokenPrinter::Bytes(printer, _) => Ok(printer.finish()),
            #[cfg(feature = "tokenizer")]
            TokenPrinter::Hub(stream) => stream.finish(),
        }
    }
}
