//! Times sdmoe beside burn and meganeura: f32 products, and a training step of a dense model, on one adapter in one run.

mod library;
mod measure;
mod ours;
mod report;
mod with_burn;
mod with_meganeura;

use std::path::PathBuf;

use clap::{Parser, ValueEnum};

use library::{Dense, Library, Result};
use measure::Figures;

/// Times sdmoe beside burn and meganeura on the same adapter
#[derive(Parser)]
#[command(version)]
struct Options {
    /// Index of the adapter, or a part of its name
    #[arg(long)]
    adapter: Option<String>,
    /// The peers
    #[arg(long, value_delimiter = ',', default_values = ["burn", "meganeura"])]
    peers: Vec<Peer>,
    /// Products: rows, inner dimension and columns, or one number for all three
    #[arg(long, value_delimiter = ',', value_parser = size, default_values = ["512", "1024", "4096x512x512", "2048"])]
    products: Vec<[usize; 3]>,
    /// Layers of the dense model
    #[arg(long, default_value_t = 30)]
    layers: usize,
    /// Tokens of its sequence; 0 for no training step
    #[arg(long, default_value_t = 128)]
    tokens: usize,
    /// Rounds, in each of which every library runs once
    #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u16).range(1..))]
    rounds: u16,
    /// Where the figures go as JSON
    #[arg(long)]
    json: Option<PathBuf>,
}

#[derive(Clone, Copy, ValueEnum)]
enum Peer {
    Burn,
    Meganeura,
}

/// `1024`, or `4096x512x512`.
fn size(text: &str) -> std::result::Result<[usize; 3], String> {
    let numbers: Option<Vec<usize>> = text.split('x').map(|n| n.parse().ok().filter(|n| *n > 0)).collect();
    match numbers.as_deref() {
        Some([n]) => Ok([*n; 3]),
        Some(&[m, k, n]) => Ok([m, k, n]),
        _ => Err("expected a size such as 1024 or 4096x512x512".to_owned()),
    }
}

fn main() -> Result<()> {
    let options = Options::parse();
    let rounds = options.rounds.into();
    let ours = ours::Ours::open(options.adapter.as_deref())?;
    let gpu = ours.gpu.clone();
    let mut libraries: Vec<Box<dyn Library>> = vec![Box::new(ours)];
    for peer in options.peers {
        libraries.push(match peer {
            Peer::Burn => Box::new(with_burn::Burn::open(gpu.adapter())?),
            Peer::Meganeura => Box::new(with_meganeura::Meganeura::open(&gpu.device().adapter_info())?),
        });
    }
    println!("{}\n{}", report::header(&libraries), report::heads());
    let mut all = Vec::new();
    for size in options.products {
        all.extend(print(measure::products(&libraries, size, rounds)?));
    }
    if options.tokens > 0 {
        all.extend(print(measure::steps(&libraries, &Dense::smol(options.layers), options.tokens, rounds)?));
    }
    if let Some(path) = options.json {
        std::fs::write(path, serde_json::to_string_pretty(&report::json(&libraries, &all))? + "\n")?;
    }
    Ok(())
}

fn print(figures: Vec<Figures>) -> Vec<Figures> {
    figures.iter().for_each(|one| println!("{}", one.line(&figures[0])));
    figures
}
