//! The tokenizer of a Hugging Face folder: `tokenizer.json` through the `tokenizers` crate, and the chat template of
//! `tokenizer_config.json` or `chat_template.jinja`.

use std::path::{Path, PathBuf};

use minijinja::syntax::SyntaxConfig;
use minijinja::{Environment, ErrorKind as JinjaKind, Value as Jinja, context};
use serde_json::Value;
use tokenizers::Tokenizer;

use super::fingerprint::fnv;
use crate::error::{Error, Result};
use crate::files::read_at_most;

/// The longest `tokenizer.json` that is read, bytes: ten times that of the largest vocabularies.
const MAX_TOKENIZER: u64 = 200_000_000;

/// The longest `tokenizer_config.json` or template that is read, bytes.
const MAX_CONFIG: u64 = 10_000_000;

/// The most instructions of a chat template: published ones take some thousand a message.
const MAX_TEMPLATE_STEPS: u64 = 10_000_000;

/// A tokenizer with its special tokens and chat template.
#[derive(Debug)]
pub struct HubTokenizer {
    path: PathBuf,
    inner: Tokenizer,
    /// The content of `tokenizer_config.json`, null where there is none.
    config: Value,
    template: Option<String>,
    fingerprint: u64,
}

/// A message of a chat.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// `system`, `user` or `assistant`.
    pub role: String,
    /// The text.
    pub content: String,
}

impl HubTokenizer {
    /// The tokenizer of `folder`; none where it has no `tokenizer.json`.
    ///
    /// # Errors
    /// [`Error::Data`] names a file that is damaged or too long; [`Error::Io`].
    pub fn of_folder(folder: &Path) -> Result<Option<Self>> {
        let file = folder.join("tokenizer.json");
        if file.exists() { Self::open(&file).map(Some) } else { Ok(None) }
    }

    /// The tokenizer of a `tokenizer.json`, with what lies beside it.
    ///
    /// # Errors
    /// As [`HubTokenizer::of_folder`].
    pub fn open(path: &Path) -> Result<Self> {
        let bytes = read_at_most(path, MAX_TOKENIZER)?;
        let mut inner = Tokenizer::from_bytes(&bytes).map_err(|e| bad(path, format!("expected a tokenizer: {e}")))?;
        // As transformers has it where nobody asks for them.
        inner.with_truncation(None).map_err(|e| bad(path, e))?.with_padding(None);
        let folder = path.parent().unwrap_or(Path::new(""));
        let beside = folder.join("tokenizer_config.json");
        let config = if beside.exists() {
            let bytes = read_at_most(&beside, MAX_CONFIG)?;
            serde_json::from_slice(&bytes).map_err(|e| bad(&beside, format!("expected JSON: {e}")))?
        } else {
            Value::Null
        };
        let file = folder.join("chat_template.jinja");
        let template = if file.exists() {
            let bytes = read_at_most(&file, MAX_CONFIG)?;
            Some(String::from_utf8(bytes).map_err(|_| bad(&file, "expected UTF-8"))?)
        } else {
            template_of(&config)
        };
        Ok(Self { path: path.to_owned(), inner, config, template, fingerprint: fnv([bytes.as_slice()]) })
    }

    /// A number that another `tokenizer.json` does not give.
    pub fn fingerprint(&self) -> u64 {
        self.fingerprint
    }

    /// Its `tokenizer.json`.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// One more than the largest token.
    pub fn vocab(&self) -> usize {
        let largest = self.inner.get_vocab(true).into_values().max();
        largest.map_or(0, |largest| largest as usize + 1)
    }

    /// The tokens of a text; `special` adds those that the tokenizer puts around every text, such as one for its beginning.
    ///
    /// # Errors
    /// [`Error::Data`] where the tokenizer refuses the text.
    pub fn encode(&self, text: &str, special: bool) -> Result<Vec<u32>> {
        let encoding = self.inner.encode_fast(text, special).map_err(|e| bad(&self.path, e))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// The text of tokens; `skip_special` leaves out those that are no text.
    ///
    /// # Errors
    /// [`Error::Data`] where the tokenizer's decoder fails.
    pub fn decode(&self, tokens: &[u32], skip_special: bool) -> Result<String> {
        self.inner.decode(tokens, skip_special).map_err(|e| bad(&self.path, e))
    }

    /// A token's id by its text, such as `<|im_end|>`.
    pub fn token(&self, text: &str) -> Option<u32> {
        self.inner.token_to_id(text)
    }

    /// The token that ends a text, as `tokenizer_config.json` names it.
    pub fn eos(&self) -> Option<u32> {
        self.special("eos_token").and_then(|text| self.token(&text))
    }

    fn special(&self, role: &str) -> Option<String> {
        let value = self.config.get(role)?;
        let text = value.as_str().or_else(|| value.get("content")?.as_str())?;
        Some(text.to_owned())
    }

    /// Whether there is a chat template.
    pub fn chats(&self) -> bool {
        self.template.is_some()
    }

    /// The text of a chat by the template; `answer` lets it end where the assistant's next message begins.
    ///
    /// # Errors
    /// [`Error::Data`] without a template, or where it fails or runs too long.
    pub fn chat_text(&self, messages: &[Message], answer: bool) -> Result<String> {
        let template =
            self.template.as_deref().ok_or_else(|| bad(&self.path, "expected a chat template, found none"))?;
        let mut jinja = Environment::new();
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
        jinja.set_syntax(syntax.map_err(|e| bad(&self.path, e))?);
        jinja.set_fuel(Some(MAX_TEMPLATE_STEPS));
        jinja.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        jinja.add_function("raise_exception", |message: String| -> std::result::Result<Jinja, minijinja::Error> {
            Err(minijinja::Error::new(JinjaKind::InvalidOperation, message))
        });
        let message = |m: &Message| context! { role => m.role.as_str(), content => m.content.as_str() };
        let special = |role| self.special(role);
        let context = context! {
            messages => messages.iter().map(message).collect::<Vec<Jinja>>(),
            add_generation_prompt => answer,
            bos_token => special("bos_token"),
            eos_token => special("eos_token"),
            pad_token => special("pad_token"),
            unk_token => special("unk_token"),
        };
        jinja.render_str(template, context).map_err(|e| bad(&self.path, format!("the chat template fails: {e:#}")))
    }

    /// The tokens of a chat.
    ///
    /// # Errors
    /// As [`HubTokenizer::chat_text`].
    pub fn chat(&self, messages: &[Message], answer: bool) -> Result<Vec<u32>> {
        // The template has the special tokens in its text.
        self.encode(&self.chat_text(messages, answer)?, false)
    }

    /// The text of tokens that come one at a time: what each completes, often a word, sometimes nothing. Special tokens are left
    /// out.
    pub fn stream(&self) -> TextStream<'_> {
        TextStream { tokenizer: self, tokens: Vec::new(), shown: 0, start: 0 }
    }
}

/// Text from tokens that come one at a time; see [`HubTokenizer::stream`].
#[derive(Debug)]
pub struct TextStream<'a> {
    tokenizer: &'a HubTokenizer,
    tokens: Vec<u32>,
    /// Tokens from here on are decoded; their text depends on what is before them.
    start: usize,
    /// Tokens whose text was given.
    shown: usize,
}

impl TextStream<'_> {
    /// The text that `token` completes.
    ///
    /// # Errors
    /// As [`HubTokenizer::decode`].
    pub fn push(&mut self, token: u32) -> Result<String> {
        self.tokens.push(token);
        let text = self.new_text()?;
        // A character whose last bytes are still to come is held back.
        if text.ends_with(char::REPLACEMENT_CHARACTER) {
            return Ok(String::new());
        }
        (self.start, self.shown) = (self.shown, self.tokens.len());
        Ok(text)
    }

    /// Returns what is left at the end.
    ///
    /// # Errors
    /// As [`HubTokenizer::decode`].
    pub fn finish(&mut self) -> Result<String> {
        let text = self.new_text()?;
        (self.start, self.shown) = (self.shown, self.tokens.len());
        Ok(text)
    }

    /// The text of the tokens that were not shown, decoded behind those shown last: a decoder may treat the first of a text
    /// otherwise.
    fn new_text(&self) -> Result<String> {
        let before = self.tokenizer.decode(&self.tokens[self.start..self.shown], true)?;
        let all = self.tokenizer.decode(&self.tokens[self.start..], true)?;
        Ok(all.strip_prefix(before.as_str()).unwrap_or(&all).to_owned())
    }
}

/// The chat template of a `tokenizer_config.json`: a text, or of several by name the one called `default`.
fn template_of(config: &Value) -> Option<String> {
    let entry = config.get("chat_template")?;
    if let Some(text) = entry.as_str() {
        return Some(text.to_owned());
    }
    let named = entry.as_array()?.iter().find(|one| one["name"] == "default")?;
    named["template"].as_str().map(str::to_owned)
}

fn bad(path: &Path, message: impl std::fmt::Display) -> Error {
    Error::Data(format!("{}: {message}", path.display()))
}
