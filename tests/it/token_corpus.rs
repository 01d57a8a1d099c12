//! Training on the tokens of a tokenizer: the text is tokenised once, the run keeps the tokenizer, and its figures are per token.

use crate::common::place::Place;
use sdmoe::checkpoint::load_tensors;
use sdmoe::data::Corpus;
use sdmoe::data::text_tokenizer::TextTokenizer;

/// A small model of one layer that reads windows of 16 tokens.
const SMALL: &str = "[model]\nlayers = 1\nd_model = 64\nheads = 2\nkv_heads = 1\nhead_dim = 32\n\
                     [model.moe]\nexperts = 4\nd_expert = 32\nd_shared = 32\n[spectral]\nrank = 4\n\
                     [train]\nbatch = 2\nseq = 16\nsteps = 4\ncheckpoint_every = 2\neval_batches = 2\n";

fn tokenizer() -> std::path::PathBuf {
    std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tokenizer/qwen")
}

fn place() -> Place {
    let place = Place::new();
    place.write("small.toml", SMALL);
    place.write("text.txt", "Grüße aus dem Wald; the experts share the work. ".repeat(60));
    for name in ["tokenizer.json", "tokenizer_config.json"] {
        place.write(&format!("own/{name}"), std::fs::read(tokenizer().join(name)).unwrap());
    }
    place
}

#[test]
fn a_run_on_tokens_goes_on_evaluates_and_generates_from_its_own_folder() {
    let place = place();
    let shown =
        place.runs("train --config small.toml --data text.txt --tokenizer own --out run --steps 2 --report off");
    for expected in [" nats per token = ", "2 steps, 64 tokens, "] {
        assert!(shown.contains(expected), "{expected}: {shown}");
    }
    let config = place.read("run/config.toml");
    assert!(config.contains("vocab = 1000") && config.contains("tokenizer = \"own\""), "{config}");
    assert_eq!(place.read("run/hub/tokenizer.json"), place.read("own/tokenizer.json"));
    // A held-out token stands for more than a byte, and bits are per byte.
    let summary: serde_json::Value = serde_json::from_str(&place.read("run/summary.json")).unwrap();
    let [loss, bits] = ["val_loss", "bits_per_byte"].map(|key| summary[key].as_f64().unwrap());
    let corpus = Corpus::tokenized(&[place.path("text.txt")], 0.1, &TextTokenizer::open(&tokenizer()).unwrap(), None);
    let corpus = corpus.unwrap();
    let bytes = corpus.bytes_per_token();
    assert_eq!(bytes, corpus.held_out().len() as f64 / corpus.validation().len() as f64);
    assert!(bytes > 1.3 && (loss / std::f64::consts::LN_2 / bytes - bits).abs() < 1e-5, "{loss} {bits} {bytes}");
    // The sources go away: the run has what it needs, and its tokens are kept.
    std::fs::remove_dir_all(place.path("own")).unwrap();
    let kept = load_tensors(&place.path("run/tokens.safetensors")).unwrap();
    assert_eq!(kept.get_u32("train").unwrap().1.len(), corpus.train().len());
    let before = std::fs::metadata(place.path("run/tokens.safetensors")).unwrap().modified().unwrap();
    place.runs("train --resume run --steps 4 --report off");
    assert_eq!(std::fs::metadata(place.path("run/tokens.safetensors")).unwrap().modified().unwrap(), before);
    // In windows of the training length, as the run measures itself.
    let evaluated = place.runs("eval --model run --data text.txt");
    assert!(evaluated.contains(" nats per token, ") && !evaluated.contains("perplexity"), "{evaluated}");
    assert!(place.runs("eval --model run --data text.txt --top-k 1,2").contains("loss, nats per token"));
    let text = place.runs("generate --model run --prompt Wald --tokens 5 --temperature 0");
    assert!(text.starts_with("Wald"), "{text}");
    place.runs("analyze run --data text.txt --tokens 64 --out report");
    let record: serde_json::Value = serde_json::from_str(&place.read("report/analysis.json")).unwrap();
    assert!(!record["load"].as_array().unwrap().is_empty());
    // What the model reads is never guessed.
    std::fs::remove_file(place.path("run/hub/tokenizer.json")).unwrap();
    for command in ["train --from run --data text.txt --out other", "eval --model run --data text.txt"] {
        place.fails(command, "expected the run's tokenizer beside it, hub/tokenizer.json, found none");
    }
}

#[test]
fn the_same_tokens_give_the_same_run_and_bytes_another_one() {
    let place = place();
    let hub = TextTokenizer::open(&tokenizer()).unwrap();
    let paths = [place.path("text.txt")];
    let cache = place.path("tokens.safetensors");
    let fresh = Corpus::tokenized(&paths, 0.1, &hub, Some(&cache)).unwrap();
    fresh.save_tokens(&cache).unwrap();
    let kept = Corpus::tokenized(&paths, 0.1, &hub, Some(&cache)).unwrap();
    assert_eq!((fresh.train(), fresh.validation()), (kept.train(), kept.validation()));
    assert_eq!(fresh.fingerprint(), kept.fingerprint());
    let bytes = Corpus::tokenized(&paths, 0.1, &TextTokenizer::Bytes, Some(&cache)).unwrap();
    assert_ne!(bytes.fingerprint(), kept.fingerprint());
    assert!(fresh.description().contains("tokens to train on") && bytes.description().contains("bytes to train on"));
    // Together both parts are the text: nothing was cut within a character.
    let decode = |tokens: &sdmoe::data::Tokens<'_>| {
        let mut stream = hub.stream();
        let text: String = (0..tokens.len()).map(|i| stream.push(tokens.get(i).unwrap()).unwrap()).collect();
        text + &stream.finish().unwrap()
    };
    assert_eq!(decode(&fresh.train()) + &decode(&fresh.validation()), place.read("text.txt"));
}

#[test]
fn a_tokenizer_or_a_text_that_does_not_fit_is_told_and_leaves_nothing() {
    let place = place();
    place.write("latin.txt", [b'a', 0xE4, b' '].repeat(200));
    place.write("broken/tokenizer.json", "{");
    let train = "train --config small.toml --out run";
    place.fails(&format!("{train} --data latin.txt --tokenizer own"), "expected UTF-8 for this model's tokenizer");
    place.fails(&format!("{train} --data text.txt --tokenizer broken"), "tokenizer.json: expected a tokenizer");
    place.fails(&format!("{train} --data text.txt --tokenizer none.json"), "none.json");
    place.fails("train --resume run --tokenizer own", "cannot be used with");
}
