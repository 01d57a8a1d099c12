//! Whether a model that is there fits settings: what may differ where a run goes on, or begins with a model.

use serde::Serialize;
use toml::Value;

use super::config::RunConfig;
use super::saved::SavedModel;
use crate::error::{Error, Result};
use crate::nn::config::ModelConfig;

impl SavedModel {
    /// Checks that this checkpoint can go on with other settings: the same model, the same rank if both are decoupled,
    /// the same update rule, and no fewer steps than are done.
    ///
    /// # Errors
    /// [`Error::Config`] names the setting that was changed, with the checkpoint's value and the other one.
    pub fn accepts(&self, config: &RunConfig) -> Result<()> {
        self.same_parts(config)?;
        same("optimizer.rule", &self.config.optimizer.rule, &config.optimizer.rule)?;
        if config.train.steps < self.step {
            return Err(too_few_steps(self.step, config.train.steps));
        }
        Ok(())
    }

    /// Checks that settings have the same model, and the same rank if both are decoupled.
    ///
    /// # Errors
    /// As [`SavedModel::accepts`].
    pub(super) fn same_parts(&self, config: &RunConfig) -> Result<()> {
        same_model(&self.config.model, &config.model)?;
        let (old, new) = (&self.config.spectral, &config.spectral);
        if old.decouples() && new.decouples() {
            same("spectral.rank", &old.rank, &new.rank)?;
            same("spectral.matrices", &old.matrices, &new.matrices)?;
            same("spectral.layers", &old.layers, &new.layers)?;
        }
        Ok(())
    }

    /// The learning rates of the last step and of the next one, where more steps than the checkpoint's make it rise: the
    /// schedule stretches over all of them.
    pub fn rising_rate(&self, config: &RunConfig) -> Option<(f32, f32)> {
        let lr = |config: &RunConfig, step| config.optimizer.schedule(config.train.steps).lr(step);
        let (planned, next) = (lr(&self.config, self.step + 1), lr(config, self.step + 1));
        let rises = config.train.steps > self.config.train.steps && next > planned;
        rises.then(|| (lr(&self.config, self.step), next))
    }
}

/// Checks that two models differ at most in what only weighs the losses, which may change on the way.
pub(super) fn same_model(old: &ModelConfig, new: &ModelConfig) -> Result<()> {
    let mut model = new.clone();
    model.moe.balance_loss = old.moe.balance_loss;
    model.moe.z_loss = old.moe.z_loss;
    model.moe.balance_bias = old.moe.balance_bias;
    same("model", old, &model)
}

/// There is nothing left to do.
pub(super) fn too_few_steps(done: u64, wanted: u64) -> Error {
    Error::config("train.steps", format!("expected more than the {done} steps already done, got {wanted}"))
}

/// Checks that a setting, or a table of settings, is what the checkpoint has.
fn same<T: Serialize + PartialEq>(field: &str, old: &T, new: &T) -> Result<()> {
    if old == new {
        return Ok(());
    }
    let value = |of: &T| Value::try_from(of).map_err(|e| Error::config(field, e.to_string()));
    let (field, old, new) = first_difference(field.to_owned(), value(old)?, value(new)?);
    Err(Error::config(field, format!("expected the checkpoint's {old}, got {new}")))
}

/// A setting as it stands in `config.toml`; numbers with a point are f32.
fn shown(value: &Value) -> String {
    if let Value::Float(x) = value { (*x as f32).to_string() } else { value.to_string() }
}

/// The first setting of two tables that differs, with its whole name and both values.
fn first_difference(field: String, old: Value, new: Value) -> (String, String, String) {
    match (old, new) {
        (Value::Table(old), Value::Table(mut new)) => {
            let differs = |(key, value): (String, Value)| match new.remove(&key) {
                Some(other) if other == value => None,
                other => Some((key, value, other)),
            };
            match old.into_iter().find_map(differs) {
                Some((key, value, Some(other))) => first_difference(format!("{field}.{key}"), value, other),
                Some((key, value, None)) => (format!("{field}.{key}"), shown(&value), "none".into()),
                // What stands at its default is not written: the key is in the new table alone.
                None => match new.into_iter().next() {
                    Some((key, value)) => (format!("{field}.{key}"), "none".into(), shown(&value)),
                    None => (field, "settings".into(), "others".into()),
                },
            }
        }
        (old, new) => (field, shown(&old), shown(&new)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::config::SharedGate;
    use crate::optim::Rule;
    use crate::train::saved::{Position, save};

    #[test]
    fn a_run_goes_on_with_the_same_model_only() {
        let run = tempfile::tempdir().unwrap();
        let config = RunConfig::default();
        save(run.path(), &config, Position { step: 7, ..Position::default() }, &[], &[]).unwrap();
        let saved = SavedModel::open(run.path()).unwrap();
        saved.accepts(&config).unwrap();
        let refused = |change: fn(&mut RunConfig)| {
            let mut config = config.clone();
            change(&mut config);
            saved.accepts(&config).err().map(|e| e.to_string())
        };
        assert_eq!(refused(|c| c.model.moe.balance_loss = 0.5), None);
        assert_eq!(refused(|c| c.spectral.enabled = false), None);
        type Change = fn(&mut RunConfig);
        let changes: [(Change, &str); 4] = [
            (|c| c.model.rope_theta = 5.0, "model.rope_theta: expected the checkpoint's 10000, got 5"),
            (|c| c.model.moe.top_k = 1, "model.moe.top_k: expected the checkpoint's 2, got 1"),
            (
                |c| c.model.moe.shared_gate = SharedGate::Sigmoid,
                "moe.shared_gate: expected the checkpoint's \"none\", got",
            ),
            (|c| c.spectral.matrices.truncate(2), "\"down\"], got [\"gate\", \"up\"]"),
        ];
        for (change, expected) in changes {
            let message = refused(change).unwrap();
            assert!(message.contains(expected), "{message}");
        }
        assert_eq!(
            refused(|c| c.optimizer.rule = Rule::Muon).unwrap(),
            "config: optimizer.rule: expected the checkpoint's \"adamw\", got \"muon\""
        );
        assert!(
            refused(|c| c.spectral.rank = 4).unwrap().contains("spectral.rank: expected the checkpoint's 8, got 4")
        );
        assert_eq!(refused(|c| c.train.steps = 7), None, "what is left may be the summary");
        assert!(refused(|c| c.train.steps = 6).unwrap().contains("more than the 7 steps already done, got 6"));
    }

    #[test]
    fn more_steps_make_the_learning_rate_rise() {
        let run = tempfile::tempdir().unwrap();
        let mut config = RunConfig::default();
        (config.train.steps, config.optimizer.lr, config.optimizer.warmup_steps) = (100, 1e-3, 10);
        save(run.path(), &config, Position { step: 100, ..Position::default() }, &[], &[]).unwrap();
        let saved = SavedModel::open(run.path()).unwrap();
        assert_eq!(saved.rising_rate(&config), None);
        config.train.steps = 200;
        let (last, next) = saved.rising_rate(&config).unwrap();
        assert_eq!(last, 1e-3 * config.optimizer.min_lr_ratio);
        assert!(next > 5.0 * last && next < 1e-3, "{last} to {next}");
    }
}
