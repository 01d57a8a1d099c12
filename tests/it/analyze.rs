//! `sdmoe analyze` end to end: its own runs with a text, two side by side, others' checkpoints, and bad input.

use std::fs;

use crate::common::checkpoints::{Names, Sizes, Stored, model, write, write_shards};
use crate::common::place::Place;
use sdmoe::analysis::record::{Analysis, KeptPairs, Of, Part};
use sdmoe::nn::config::Preset;
use sdmoe::report::{PAGE, RECORD, RECORDS};
use sdmoe::train::config::RunConfig;

/// A run of a second, of which layers, experts and sides can be told apart by their sizes.
fn tiny(spectral: bool) -> RunConfig {
    let mut config = RunConfig::preset(Preset::Tiny);
    config.model.d_model = 32;
    config.model.layers = 2;
    (config.model.heads, config.model.kv_heads, config.model.head_dim) = (2, 1, 16);
    (config.model.moe.experts, config.model.moe.d_expert, config.model.moe.d_shared) = (4, 24, 16);
    (config.train.steps, config.train.batch, config.train.seq) = (8, 2, 32);
    (config.train.log_every, config.train.eval_every, config.train.spectral_every) = (1, 4, 4);
    config.optimizer.warmup_steps = 2;
    (config.spectral.rank, config.spectral.oversampling) = (3, 4);
    config.spectral.enabled = spectral;
    config.data.paths = vec!["text".into()];
    config
}

/// A place with the sources `text/words` and `text/digits`.
fn texts() -> Place {
    let place = Place::new();
    place.write("text/words", "the quick brown fox jumps over the lazy dog. ".repeat(60));
    place.write("text/digits", (0..600).map(|n| (n * n).to_string() + ", ").collect::<String>());
    place
}

/// The finished runs `off` and `on` in a place with texts.
fn runs(report: &str) -> Place {
    let place = texts();
    for (name, spectral) in [("off", false), ("on", true)] {
        place.write("run.toml", tiny(spectral).to_toml().unwrap());
        place.runs(&format!("train --config run.toml --out {name} --quiet --report {report}"));
    }
    place
}

fn record(place: &Place, path: &str) -> Analysis {
    let text = place.read(path);
    assert!(!text.contains("NaN") && !text.contains("Infinity"), "{path}");
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{path}: {e}"))
}

/// Every similarity that is defined stands beside its null and its control, and lies where similarities lie.
fn sound(found: &Analysis) {
    assert!(!found.similarity.is_empty());
    for row in &found.similarity {
        let name = (row.layer, row.matrix, row.side, row.of, row.part);
        assert!(row.null > 0.0 && row.null <= 1.0, "{name:?}: null {}", row.null);
        let control = row.control.unwrap_or_else(|| panic!("{name:?}: no control"));
        // Two experts are one pair.
        assert!((row.spread.is_some() || row.pairs.len() == 2) && row.control_spread.is_some(), "{name:?}: no spread");
        // The control's own spread: few pairs of few dimensions.
        assert!((control - row.null).abs() < 0.1, "{name:?}: control {control}, null {}", row.null);
        let all = row.pairs.iter().flatten().flatten().chain(&row.mean_offdiag).chain(&row.max);
        assert!(all.into_iter().all(|x| (-1e-5..=1.0 + 1e-5).contains(x)), "{name:?}: {row:?}");
        assert!(row.pairs.iter().enumerate().all(|(i, r)| r[i].is_none_or(|x| (x - 1.0).abs() < 1e-4)), "{name:?}");
    }
}

#[test]
fn a_run_is_analysed_with_a_text_and_beside_another() {
    let place = runs("off");
    assert!(!place.path("on/analysis").exists(), "--report off");
    let said = place.runs("analyze on --data text --tokens 512 --seed 3");
    for part in ["Analysed 24 of 24 expert matrices", "0 not understood", "report: on/analysis/report.html"] {
        assert!(said.contains(part), "{part} in {said}");
    }
    assert!(place.read(&format!("on/analysis/{PAGE}")).contains("</html>"));
    let found = record(&place, &format!("on/analysis/{RECORD}"));
    sound(&found);
    assert_eq!((found.target.name.as_str(), found.target.kind.as_str(), found.target.spectral), ("on", "run", true));
    assert_eq!((found.settings.seed, found.settings.tokens, found.settings.data.as_deref()), (3, 512, Some("text")));
    let rows = |of, part| found.similarity.iter().filter(|s| s.of == of && s.part == part).count();
    for of in [Of::Weights, Of::Unique, Of::Gradients] {
        assert_eq!(rows(of, Part::Top), 12, "{of:?}: 2 layers, 3 kinds, 2 sides");
        // W_u lacks k dimensions: on the longer side it has no tail of full rank, nor need a gradient.
        assert!(rows(of, Part::Tail) >= 6, "{of:?}");
    }
    assert_eq!((rows(Of::Weights, Part::Tail), rows(Of::Unique, Part::Tail)), (12, 6));
    assert_eq!((rows(Of::Activations, Part::Top), rows(Of::Activations, Part::Tail)), (2, 2));
    let counts = [found.gates.len(), found.load.len(), found.jacobians.len(), found.routed_pca.len()];
    assert_eq!((counts, found.activations.len(), found.decoupling.len()), ([2; 4], 24, 6));
    for gates in &found.gates {
        let data = gates.data.as_ref().unwrap();
        assert!(data.len() == 4 && data.iter().all(|x| (0.0..=1.0).contains(&x.unwrap())), "{gates:?}");
    }
    assert_eq!(found.spectra_controls.len(), 3, "one size of each kind");
    for control in &found.spectra_controls {
        let s = &control.relative;
        assert!(s.len() == 24 && s[0] == 1.0 && s.is_sorted_by(|a, b| a > b) && s[23] < 0.2, "{control:?}");
    }
    for load in &found.load {
        assert_eq!(load.sources, ["digits", "words"]);
        let (found, null, control) = (load.mutual_information.unwrap(), load.null.unwrap(), load.control.unwrap());
        assert!(found > control && null > 0.0, "letters and digits go to other experts: {load:?}");
    }
    for j in &found.jacobians {
        assert_eq!((j.probes, j.tokens, j.singular_values.len()), (None, 32, 4));
        assert!(j.control.unwrap().abs() < 0.1 && j.mean_offdiag.is_some() && j.spread.is_some(), "{j:?}");
        // 32 of the windows' 32 positions, each once, and both sources.
        let mut positions = j.positions.clone();
        positions.sort_unstable();
        assert_eq!((positions, j.window, j.sources), ((0..32).collect(), 32, 2));
        assert!(j.effective_rank.iter().all(Option::is_some));
        let least = |x: &[f64]| x.iter().copied().fold(f64::INFINITY, f64::min);
        assert!(
            j.spectrum_control.first() == Some(&1.0) && least(&j.spectrum_control) < 0.5,
            "{:?}",
            j.spectrum_control
        );
        assert!(j.effective_rank_control.is_some_and(|rank| rank > 1.0));
    }
    for a in found.activations.iter().filter(|a| a.tokens > 0) {
        let whole: f64 = a.output_energy.iter().flatten().sum();
        assert!((whole - 1.0).abs() < 1e-3, "all directions carry the whole output: {a:?}");
        assert!(a.null.is_some() && a.control.is_some() && a.shuffle_control.is_some(), "{a:?}");
        assert!(a.shuffle_top.is_some() && a.shuffle_tail.is_some(), "{a:?}");
    }
    for d in &found.decoupling {
        let share = d.common_gradient_share.unwrap();
        assert!((0.0..=1.0).contains(&share) && d.null_gradient_share > 0.0, "{d:?}");
    }
    let curves = found.training.as_ref().unwrap();
    assert_eq!(curves.step, (1..=8).collect::<Vec<_>>());
    assert!(curves.loss.iter().all(Option::is_some) && curves.val_loss[7].is_some() && curves.drift_model[3].is_some());
    // One percent of 24 is one direction; k = 3.
    assert!((curves.null_similarity.unwrap() - 1.0 / 24.0).abs() < 1e-12);
    assert!((curves.null_drift_hidden.unwrap() - (3.0f64 / 24.0).sqrt()).abs() < 1e-12);

    // The same seed says the same.
    place.runs("analyze on --data text --tokens 512 --seed 3 --out again");
    assert!(
        place.read("again/analysis.json") == place.read("on/analysis/analysis.json"),
        "the same seed, other numbers"
    );

    let said = place.runs("analyze --compare off on --layers 1 --out both");
    assert!(said.contains("Analysed 12 of 24 expert matrices") && said.contains("report: both/report.html"), "{said}");
    let [first, second] = RECORDS.map(|file| record(&place, &format!("both/{file}")));
    sound(&first);
    sound(&second);
    assert_eq!((first.target.name.as_str(), second.target.name.as_str()), ("off", "on"));
    assert!(!first.target.spectral && first.decoupling.is_empty() && first.training.is_some());
    assert_eq!((first.target.layers, second.target.layers), (vec![1], vec![1]));
    assert!(second.similarity.iter().all(|row| row.layer == 1));
}

#[test]
fn a_run_ends_with_its_report() {
    let place = runs("on");
    for (name, of) in [("off", Of::Weights), ("on", Of::Unique)] {
        let found = record(&place, &format!("{name}/analysis/{RECORD}"));
        sound(&found);
        assert!(found.similarity.iter().any(|row| row.of == of) && found.training.is_some());
        assert!(found.load.len() == 2 && found.settings.tokens > 0, "the held-out part was looked at");
        assert!(place.path(&format!("{name}/analysis/{PAGE}")).exists());
    }
}

/// The finished run `run` of `config` in a place with the sources of [`runs`], analysed with them.
fn with_text(config: &RunConfig, train: &str, tokens: usize) -> (Place, Analysis) {
    let place = texts();
    place.write("run.toml", config.to_toml().unwrap());
    place.runs(&format!("train --config run.toml --out run --quiet --report off{train}"));
    place.runs(&format!("analyze run --data text --tokens {tokens}"));
    let found = record(&place, &format!("run/analysis/{RECORD}"));
    sound(&found);
    assert_eq!(found.settings.tokens, tokens);
    (place, found)
}

#[test]
fn soft_routing_gives_every_token_to_every_expert() {
    let mut config = tiny(true);
    config.model.moe.top_k = config.model.moe.experts;
    let (_, found) = with_text(&config, "", 128);
    assert!(found.activations.len() == 24 && found.activations.iter().all(|a| a.tokens == 128));
    for (load, pca) in found.load.iter().zip(&found.routed_pca) {
        // A token counts for its experts by its weights, so shares are near each other and yet not equal.
        let total: f64 = load.share.iter().sum();
        assert!((total - 1.0).abs() < 1e-12 && load.dead == 0 && load.variation > 1e-3, "{load:?}");
        assert!(load.share.iter().all(|f| (0.1..0.5).contains(f)), "{load:?}");
        // Weights tell less of the source than choices could, ln 2, and have a null far below theirs, 3 / 2N.
        let (information, null) = (load.mutual_information.unwrap(), load.null.unwrap());
        assert!((0.0..0.1).contains(&information) && (0.0..0.3 * 3.0 / 256.0).contains(&null), "{load:?}");
        // Groups are the same tokens with other weights: the control permutes both, and finds them as alike.
        let (mean, control) = (pca.mean_offdiag.unwrap(), pca.control.unwrap());
        assert!(pca.tokens == [128; 4] && mean > pca.null && control > pca.null, "{mean}, control {control}");
    }
}

#[test]
fn a_run_in_f16_is_analysed_in_f32() {
    let (place, found) = with_text(&tiny(true), " --precision f16", 128);
    assert!(place.read("run/config.toml").contains("f16"));
    assert!(found.similarity.iter().any(|row| row.of == Of::Gradients && row.mean_offdiag.is_some()));
    assert!(found.training.unwrap().loss.iter().all(Option::is_some));
}

#[test]
fn wide_models_have_probed_jacobians_and_the_leading_directions() {
    let mut config = tiny(false);
    (config.model.d_model, config.model.layers, config.train.steps) = (576, 1, 2);
    config.optimizer.warmup_steps = 1;
    (config.model.moe.experts, config.model.moe.d_expert, config.train.eval_every) = (2, 304, 2);
    let (_, found) = with_text(&config, "", 64);
    let [jacobians] = &found.jacobians[..] else { panic!("{:?}", found.jacobians) };
    assert_eq!((jacobians.probes, jacobians.tokens), (Some(64), 32));
    assert!(jacobians.mean_offdiag.is_some() && jacobians.control.is_some(), "{jacobians:?}");
    assert!(jacobians.singular_values.iter().all(Vec::is_empty) && jacobians.effective_rank == [None; 2]);
    // A tenth of 304, of which four are the top.
    assert!(found.spectra.iter().all(|s| s.singular_values.len() == 31 && s.effective_rank.is_none()));
    assert_eq!(found.activations.len(), 6);
    for a in found.activations.iter().filter(|a| a.tokens > 0) {
        let part: f64 = a.output_energy.iter().flatten().sum();
        assert!(a.ratio.len() == 31 && part > 0.0 && part < 1.0, "the leading directions carry a part: {a:?}");
        assert!(a.shuffle_top.is_some() && a.shuffle_tail.is_some(), "{a:?}");
    }
}

const SIZES: Sizes = Sizes { layers: 2, dense: 1, experts: 4, d: 40, f: 24 };

#[test]
fn others_checkpoints_are_analysed_from_their_weights_alone() {
    let place = Place::new();
    let mut tensors = model(Names::Qwen2Moe, "BF16", SIZES);
    tensors.push(Stored::zeros("model.mystery.weight", "BF16", &[3]));
    fs::create_dir(place.path("qwen")).unwrap();
    write_shards(&place.path("qwen"), &tensors, 3);
    let before = crate::common::place::tree(&place.path("qwen"));
    let said = place.runs("analyze qwen --values all");
    for part in
        ["Analysed 12 of 12 expert matrices", "1 not understood", "model.mystery.weight", "analysis-qwen/report"]
    {
        assert!(said.contains(part), "{part} in {said}");
    }
    assert_eq!(crate::common::place::tree(&place.path("qwen")), before, "nothing may be written into others' folders");
    let found = record(&place, "analysis-qwen/analysis.json");
    sound(&found);
    assert_eq!((found.target.family.as_str(), found.target.kind.as_str()), ("qwen2_moe", "hugging_face"));
    assert_eq!((found.target.d_model, found.target.d_expert, &found.target.layers[..]), (40, 24, &[1][..]));
    assert!(found.spectra.iter().all(|s| s.singular_values.len() == 24 && s.effective_rank.is_some()));
    assert!(found.activations.is_empty() && found.load.is_empty() && found.training.is_none());
    assert_eq!(found.coverage.unknown_tensors, ["model.mystery.weight"]);

    write(&place.path("one.safetensors"), &model(Names::Mixtral, "F16", SIZES));
    place.runs("analyze one.safetensors --out deep/er");
    assert_eq!(record(&place, "deep/er/analysis.json").target.name, "one.safetensors");
}

#[test]
fn what_is_missing_is_said_first() {
    let place = Place::new();
    let first_line = |said: &str| said.lines().next().unwrap().to_owned();
    let mut tensors = model(Names::Qwen2Moe, "F32", SIZES);
    let odd = "model.layers.0.feed_forward.experts.0.gate_proj.weight";
    tensors.push(Stored::zeros(odd, "F32", &[24, 40]));
    write(&place.path("model-00001-of-00002.safetensors"), &tensors);
    let said = place.runs("analyze model-00001-of-00002.safetensors --out part");
    let sentences = [
        "this is one shard, number 1 of 2".to_owned(),
        format!("1 tensor whose name looks like an expert\u{2019}s is left out ({odd})"),
    ];
    let wanted = format!("Only a part of the experts: {}. Experts share", sentences.join("; "));
    assert!(first_line(&said).starts_with(&wanted), "{said}");
    assert_eq!(record(&place, "part/analysis.json").coverage.incomplete, sentences);
    assert!(place.read("part/report.html").contains(&format!("<h1>{wanted}")));

    write(&place.path("whole.safetensors"), &model(Names::Qwen2Moe, "F32", Sizes { layers: 3, ..SIZES }));
    let said = place.runs("analyze whole.safetensors --layers 2 --out some");
    let wanted = "Only a part of the experts: 1 of 2 layers with experts were chosen. Experts share";
    assert!(first_line(&said).starts_with(wanted), "{said}");
    // Two beside each other: of whom it is said.
    place.runs("analyze --compare whole.safetensors model-00001-of-00002.safetensors --out two");
    assert!(place.read("two/report.html").contains(": Only a part of the experts: this is one shard"));
    assert!(record(&place, "two/analysis-first.json").coverage.incomplete.is_empty());
}

#[test]
fn every_stack_of_layers_has_a_report_of_its_own() {
    let place = Place::new();
    let mut tensors = model(Names::Qwen2Moe, "F32", Sizes { layers: 3, ..SIZES });
    let second = model(Names::Qwen2Moe, "F32", Sizes { dense: 0, layers: 1, experts: 3, d: 32, f: 16 });
    tensors.extend(second.into_iter().filter(|t| t.name.contains("layers.")).map(|mut t| {
        t.name = t.name.replace("model.", "<b>mtp.");
        t
    }));
    write(&place.path("both.safetensors"), &tensors);
    let said = place.runs("analyze both.safetensors --out an");
    for part in [
        "both.safetensors (model):\n",
        "both.safetensors (<b>mtp):\n",
        "  layers of <b>mtp: a report of their own, in stack-2\n",
        "Analysed 24 of 24 expert matrices",
        "Analysed 9 of 9 expert matrices",
        "report on <b>mtp: an/stack-2/report.html\nreport: an/report.html\n",
    ] {
        assert!(said.contains(part), "{part} in {said}");
    }
    let (main, other) = (record(&place, "an/analysis.json"), record(&place, "an/stack-2/analysis.json"));
    assert_eq!((main.target.stack.as_str(), &main.target.layers[..]), ("model", &[1, 2][..]));
    assert_eq!((other.target.stack.as_str(), &other.target.layers[..]), ("<b>mtp", &[0][..]));
    assert_eq!((main.target.d_model, other.target.d_model, other.target.experts), (40, 32, 3));
    assert_eq!(main.coverage.other_stacks[0].name, "<b>mtp");
    assert!(main.coverage.incomplete.is_empty() && other.coverage.incomplete.is_empty());
    let page = place.read("an/report.html");
    assert!(page.contains("Layers of &lt;b&gt;mtp: <a href=\"stack-2/report.html\">"));
    // Again into the same folder: both are replaced.
    place.runs("analyze both.safetensors --out an");
    // Numbers of layers are the model's, and so is a comparison: the other is left out, aloud.
    for args in ["both.safetensors --layers 1", "--compare both.safetensors both.safetensors"] {
        let said = place.runs(&format!("analyze {args} --out less"));
        assert!(said.contains("the layers of <b>mtp are left out. Experts share"), "{said}");
        fs::remove_dir_all(place.path("less")).unwrap();
    }
}

#[test]
fn only_reports_of_its_own_are_replaced() {
    let place = Place::new();
    write(&place.path("x.safetensors"), &model(Names::Olmoe, "F32", SIZES));
    for (name, content) in [
        ("report.html", "mine"),
        ("analysis.json", "{\"mine\": 1}"),
        ("analysis-first.json", "[]"),
        ("notes.txt", "mine"),
        ("figures/trend.svg", "<svg/>"),
    ] {
        place.write(&format!("taken/{name}"), content);
        let first = name.split('/').next().unwrap();
        place.fails("analyze x.safetensors --out taken", &format!("taken: holds `{first}`, which no report"));
        fs::remove_dir_all(place.path("taken")).unwrap();
    }
    fs::create_dir(place.path("taken")).unwrap();
    place.runs("analyze x.safetensors --out taken");
    // Beside a report of its own others' files are left alone, and it is replaced.
    place.write("taken/notes.txt", "mine");
    place.runs("analyze x.safetensors --out taken --seed 5");
    assert_eq!(record(&place, "taken/analysis.json").settings.seed, 5);
    assert_eq!(place.read("taken/notes.txt"), "mine");
    // A report of two takes the place of one.
    place.runs("analyze --compare x.safetensors x.safetensors --out taken");
    place.write("taken/analysis.json", "mine");
    place.fails("analyze x.safetensors --out taken", "taken: holds `analysis.json`, which no report");
    fs::remove_file(place.path("taken/analysis.json")).unwrap();
    place.write("taken/figures/worst-layer.svg", "mine");
    let output = place.command("analyze x.safetensors --out taken").output().unwrap();
    let message = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{message}");
    assert!(message.contains("taken/figures/worst-layer.svg: is in the way of the report"), "{message}");
    assert_eq!(place.read("taken/figures/worst-layer.svg"), "mine");
}

#[test]
fn of_many_experts_no_more_is_kept_than_asked_for() {
    let place = Place::new();
    let sizes = Sizes { layers: 3, dense: 1, experts: 70, d: 8, f: 4 };
    write(&place.path("many.safetensors"), &model(Names::Olmoe, "F32", sizes));
    let analysed = |flags: &str| {
        place.runs(&format!("analyze many.safetensors --out out{flags}"));
        let page = place.read(&format!("out/{PAGE}"));
        (record(&place, &format!("out/{RECORD}")), page)
    };
    let (whole, whole_page) = analysed(" --pairs full");
    let (top, top_page) = analysed("");
    let (none, _) = analysed(" --pairs none");
    assert_eq!(top, analysed(" --pairs top").0, "70 are many");
    assert!(whole.similarity.iter().all(|s| s.pairs.len() == 70) && whole.spectra_over_experts.is_empty());
    assert!(whole.spectra.iter().all(|s| s.singular_values.len() == 4));
    for (found, blocks) in [(&top, 24), (&none, 0)] {
        assert_eq!((found.similarity.len(), found.spectra.len()), (whole.similarity.len(), whole.spectra.len()));
        for (kept, whole) in found.similarity.iter().zip(&whole.similarity) {
            let KeptPairs::Reduced(pairs) = &kept.pairs else { panic!("{kept:?}") };
            assert_eq!((pairs.size, pairs.block_mean.len(), pairs.top.is_empty()), (70, blocks, blocks == 0));
            assert_eq!((kept.mean_offdiag, kept.max), (whole.mean_offdiag, whole.max));
            assert_eq!((pairs.mean, pairs.largest), (whole.pairs.mean(), whole.max));
            assert_eq!((pairs.spread, kept.spread), (whole.spread, whole.spread));
            let listed = |&(i, j, x): &(usize, usize, f64)| (whole.pairs[i][j].unwrap() - x).abs() < 1e-5;
            assert!(pairs.top.iter().all(listed), "{kept:?}");
        }
        assert!(found.spectra.iter().all(|s| s.singular_values.is_empty() && s.frobenius > 0.0));
        let together: Vec<_> =
            found.spectra_over_experts.iter().map(|s| (s.layer, s.experts, s.median.len())).collect();
        assert_eq!(together, [(1, 70, 4), (1, 70, 4), (1, 70, 4), (2, 70, 4), (2, 70, 4), (2, 70, 4)]);
    }
    // The page shows what can be seen, however much the record has.
    let figures = |page: &str| page.matches("<figure").count();
    assert_eq!(figures(&whole_page), figures(&top_page));
    assert!(top_page.contains("largest of blocks") && whole_page.contains("largest of blocks"));
    place.fails("analyze many.safetensors --pairs some", "full, top, none");
}

#[test]
fn bad_input_is_told_and_leaves_no_report() {
    let place = Place::new();
    fs::create_dir(place.path("hf")).unwrap();
    let file = place.path("hf/model.safetensors");
    write(&file, &model(Names::Olmoe, "F32", SIZES));
    place.write("text", "words ".repeat(100));
    place.write("taken", "x");
    place.fails("analyze", "--help");
    place.fails(
        "analyze missing",
        "missing: expected a run, a checkpoint, a Hugging Face folder or a .safetensors file",
    );
    place.fails("analyze hf --layers 7", "config: layers: expected layers with experts (1), got 7");
    place.fails("analyze hf --layers 3-1", "expected numbers and ranges such as 0-3,7");
    place.fails("analyze hf --top 0%", "expected a share such as 1% or 0.01");
    place.fails("analyze hf --tokens 0", "expected a number of at least 1");
    place.fails(
        "analyze hf --data text",
        "hf/config.json: expected a config.json, which says what the model is, found none (without --data",
    );
    place.fails("analyze hf/model.safetensors --data text", "hf/config.json: expected a config.json");
    place.fails("analyze hf --out taken", "taken: expected a folder for the report, found a file");
    place.fails("analyze hf --compare hf hf", "cannot be used with");
    place.fails("analyze hf --data nowhere", "reading nowhere");

    let whole = fs::read(&file).unwrap();
    fs::write(&file, &whole[..whole.len() - 8]).unwrap();
    place.fails("analyze hf", "hf/model.safetensors");

    let mut broken = model(Names::Olmoe, "F32", SIZES);
    let tensor = broken.iter_mut().find(|t| t.name.contains("experts.2.") && t.name.contains("up_proj")).unwrap();
    tensor.bytes[..4].copy_from_slice(&f32::NAN.to_le_bytes());
    let name = tensor.name.clone();
    write(&file, &broken);
    let before = place.tree();
    let output = place.command("analyze hf").output().unwrap();
    let message = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{message}");
    let error = message.lines().last().unwrap();
    assert!(error.contains("hf/model.safetensors") && error.contains(&name), "{message}");
    assert_eq!(place.tree(), before, "nothing may be written");
}
