//! Hostile settings: whatever a file of settings says, it is refused by the setting's name, or it lies within bounds; never
//! with a panic, never after a long time, and nothing is asked of a device.

use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use sdmoe::nn::config::Preset;
use sdmoe::train::config::RunConfig;
use sdmoe::train::warnings::settings_warnings;
use toml::{Table, Value};

/// Longer than any check needs on a busy machine.
const LONG: Duration = Duration::from_secs(5);

/// Every setting's full name, with its value in the preset.
fn settings() -> Vec<(String, Value)> {
    fn leaves(prefix: &str, table: &Table, found: &mut Vec<(String, Value)>) {
        for (key, value) in table {
            match value {
                Value::Table(inner) => leaves(&format!("{prefix}{key}."), inner, found),
                value => found.push((format!("{prefix}{key}"), value.clone())),
            }
        }
    }
    let table: Table = toml::from_str(&RunConfig::preset(Preset::Tiny).to_toml().unwrap()).unwrap();
    let mut found = Vec::new();
    leaves("", &table, &mut found);
    found.push(("adapter".into(), Value::String("x".into())));
    assert!(found.len() > 45, "{} settings", found.len());
    found
}

/// Values that break programs, as TOML.
fn hostile() -> Vec<String> {
    let mut values: Vec<String> = (0..64).step_by(3).map(|bit| (1u64 << bit).to_string()).collect();
    values.extend([i64::MAX, i64::MAX - 1, i64::MIN, -1, 0, 3, 5, 255, 257, 65_537].map(|n| n.to_string()));
    values.extend(["2147483647", "2147483648", "4294967295", "4294967296", "9223372036854775806"].map(str::to_owned));
    let others = [
        "0.0",
        "-0.0",
        "0.5",
        "1.0",
        "-1.5",
        "1e-45",
        "1e-300",
        "1e38",
        "1e39",
        "1e308",
        "nan",
        "-nan",
        "inf",
        "-inf",
        "\"\"",
        "\"x\"",
        "\"on\"",
        "true",
        "[]",
        "[1]",
        "[\"gate\"]",
        "[\"gate\", \"gate\"]",
        "{ a = 1 }",
        "1979-05-27",
    ];
    values.extend(others.map(str::to_owned));
    values
}

/// What becomes of a file of settings: none for one within bounds, else the error. It must take no time.
fn outcome(text: &str) -> Option<String> {
    let began = Instant::now();
    let checked = RunConfig::from_toml(text, "run.toml", None).and_then(|c| c.validate().map(|()| c));
    let outcome = match checked {
        Err(e) => Some(e.to_string()),
        Ok(config) => {
            within_bounds(text, &config);
            None
        }
    };
    assert!(began.elapsed() < LONG, "{text}: took {:?}", began.elapsed());
    outcome
}

/// What is accepted has products that fit into 64 bits, a text of its own, and warnings of one line.
fn within_bounds(text: &str, config: &RunConfig) {
    let (m, t) = (&config.model, &config.train);
    let product = |sizes: &[u64]| {
        let product = sizes.iter().try_fold(1u64, |product, size| product.checked_mul(*size));
        // Elements; bytes of all that the optimizer has are 16 times as many.
        assert!(product.is_some_and(|n| n <= u64::MAX / 64), "{text}: a product of {sizes:?}");
    };
    let (d, layers, rows) = (m.d_model as u64, m.layers as u64, (t.batch * t.seq) as u64);
    product(&[layers, m.moe.experts as u64, d, m.moe.d_expert as u64]);
    product(&[layers, d, m.moe.d_shared as u64]);
    product(&[layers, d, m.heads as u64, m.head_dim as u64]);
    product(&[m.vocab as u64, d]);
    product(&[rows, m.vocab as u64]);
    product(&[rows, m.moe.top_k as u64, m.moe.d_expert.max(m.d_model) as u64]);
    product(&[rows, t.accumulate]);
    for (name, value) in [
        ("eps", config.optimizer.eps),
        ("weight_decay", config.optimizer.weight_decay),
        ("clip", config.optimizer.clip),
        ("rope_theta", m.rope_theta),
        ("norm_eps", m.norm_eps),
        ("scaling", m.moe.scaling),
        ("balance_loss", m.moe.balance_loss),
        ("z_loss", m.moe.z_loss),
        ("balance_bias", m.moe.balance_bias),
    ] {
        assert!(value.is_finite() && (0.0..=1e12).contains(&value), "{text}: {name} = {value}");
    }
    assert!((0.0..=1e30).contains(&config.optimizer.lr), "{text}");
    assert!(config.spectral.power_iterations <= 100 && t.steps <= 1_000_000_000_000, "{text}");
    assert_eq!(RunConfig::from_toml(&config.to_toml().unwrap(), "x", None).unwrap(), *config, "{text}");
    assert!(settings_warnings(config).iter().all(|w| !w.message.contains('\n')), "{text}");
    assert!((1..=10).all(|step| config.optimizer.schedule(t.steps).lr(step).is_finite()), "{text}");
}

/// The last part of a setting's name, by which messages about two settings name both.
fn last(name: &str) -> &str {
    name.rsplit('.').next().unwrap()
}

#[test]
fn every_setting_has_bounds_and_errors_that_name_it() {
    let (mut refused, mut accepted) = (0, 0);
    for (name, _) in settings() {
        for value in hostile() {
            let text = format!("{name} = {value}");
            match outcome(&text) {
                None => accepted += 1,
                Some(message) => {
                    refused += 1;
                    assert!(message.starts_with("config: ") && !message.contains('\n'), "{text}: {message}");
                    assert!(message.contains(last(&name)), "{text}: {message}");
                }
            }
        }
    }
    assert!(refused > 1500 && accepted > 500, "{refused} refused, {accepted} accepted");
}

#[test]
fn hostile_settings_together_are_told_by_one_of_them() {
    let settings = settings();
    let read = |text: String| Some(toml::from_str::<Table>(&format!("x = {text}")).ok()?["x"].clone());
    // What is no TOML is told by its line, in the test above.
    let hostile: Vec<Value> = hostile().into_iter().filter_map(read).collect();
    let mut rng = StdRng::seed_from_u64(13);
    for _ in 0..5_000 {
        let mut text = Table::new();
        let mut names = Vec::new();
        for _ in 0..rng.random_range(2..6) {
            let (name, usual) = &settings[rng.random_range(0..settings.len())];
            // Of the right kind more often than not, so that the later checks are reached.
            let value = loop {
                let value = &hostile[rng.random_range(0..hostile.len())];
                if value.same_type(usual) || rng.random_range(0..20) == 0 {
                    break value.clone();
                }
                if usual.is_array() || usual.is_str() || usual.is_bool() {
                    break usual.clone();
                }
            };
            text.insert(name.clone(), value);
            names.push(name.clone());
        }
        // Dotted keys, one a line: the names hold dots of their own.
        let text: String = text.iter().map(|(name, value)| format!("{name} = {value}\n")).collect();
        if let Some(message) = outcome(&text) {
            let named = names.iter().any(|name| message.contains(last(name)));
            assert!(named && !message.contains('\n'), "{text}: {message}");
        }
    }
}

#[test]
fn a_setting_of_the_wrong_kind_is_told_by_its_name() {
    for (text, expected) in [
        ("train.batch = -1", "config: train.batch: invalid value: integer `-1`"),
        ("optimizer.lr = \"high\"", "config: optimizer.lr: invalid type: string \"high\""),
        ("model.moe.score = \"max\"", "config: model.moe.score: unknown variant `max`"),
        ("spectral.matrices = [\"gate\", \"left\"]", "config: spectral.matrices: unknown variant `left`"),
        ("train = 3", "config: train: invalid type: integer `3`"),
        ("model.moe.experts.count = 3", "config: model.moe.experts"),
    ] {
        let message = outcome(text).unwrap_or_default();
        assert!(message.starts_with(expected), "{text}: {message}");
    }
}
