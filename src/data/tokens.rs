//! A text as numbers, from which batches are cut.

use crate::error::{Error, Result};

/// The tokens of a text: its bytes, or numbers of a larger vocabulary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tokens<'a> {
    /// Token `t` is byte `t`.
    Bytes(&'a [u8]),
    /// Numbers that a tokenizer gave.
    Ids(&'a [u32]),
}

impl Tokens<'_> {
    /// The number of tokens.
    pub fn len(&self) -> usize {
        match self {
            Tokens::Bytes(bytes) => bytes.len(),
            Tokens::Ids(ids) => ids.len(),
        }
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Token `i`; none behind the end.
    pub fn get(&self, i: usize) -> Option<u32> {
        match self {
            Tokens::Bytes(bytes) => bytes.get(i).map(|&b| u32::from(b)),
            Tokens::Ids(ids) => ids.get(i).copied(),
        }
    }

    /// Their name: `bytes` or `tokens`.
    pub fn unit(&self) -> &'static str {
        match self {
            Tokens::Bytes(_) => "bytes",
            Tokens::Ids(_) => "tokens",
        }
    }

    /// Checks that they hold one sequence of `seq` tokens and the token after it; `part` says what they are.
    ///
    /// # Errors
    /// [`Error::Data`] with what is needed and what there is.
    pub fn require(&self, seq: usize, part: &str) -> Result<()> {
        let (got, needed, unit) = (self.len(), seq + 1, self.unit());
        if got < needed {
            return Err(Error::Data(format!(
                "{part} is shorter than one sequence: expected at least {needed} {unit} (seq + 1), got {got}"
            )));
        }
        Ok(())
    }
}

impl<'a> From<&'a [u8]> for Tokens<'a> {
    fn from(bytes: &'a [u8]) -> Self {
        Tokens::Bytes(bytes)
    }
}

impl<'a> From<&'a Vec<u8>> for Tokens<'a> {
    fn from(bytes: &'a Vec<u8>) -> Self {
        Tokens::Bytes(bytes)
    }
}

impl<'a, const N: usize> From<&'a [u8; N]> for Tokens<'a> {
    fn from(bytes: &'a [u8; N]) -> Self {
        Tokens::Bytes(bytes)
    }
}

impl<'a> From<&'a [u32]> for Tokens<'a> {
    fn from(ids: &'a [u32]) -> Self {
        Tokens::Ids(ids)
    }
}

impl<'a> From<&'a Vec<u32>> for Tokens<'a> {
    fn from(ids: &'a Vec<u32>) -> Self {
        Tokens::Ids(ids)
    }
}
