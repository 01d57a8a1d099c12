//! `sdmoe devices`: every adapter with what it can do, and which of them is taken with which kernels.

use crate::error::Result;
use crate::gpu::{AdapterChoice, AdapterReport, Gpu, GpuOptions, Tier, adapters};

use super::device::AdapterArgs;

/// Flags of `sdmoe devices`: what the other commands would take with them.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    choice: AdapterArgs,
    /// Try products on the matrix units of the adapter that is taken, through wgpu's experimental cooperative matrices
    #[arg(long)]
    matrix_units: bool,
}

/// Lists the adapters.
pub(super) fn run(args: &Args) -> Result<()> {
    let found = pollster::block_on(adapters())?;
    let options = args.choice.options();
    let taken = options.adapter.among(&found)?;
    let describe = |adapter: &AdapterReport| {
        let choice = if adapter.index == taken { choice(adapter, &options) } else { "no".to_owned() };
        let tried = args.matrix_units && adapter.index == taken;
        describe(adapter, &choice, &matrix_units(adapter, &options, tried))
    };
    super::print(&found.iter().map(describe).collect::<Vec<_>>().join("\n"))
}

/// Exactly, as a user may have set it.
fn size(bytes: u64) -> String {
    if bytes.is_multiple_of(1 << 20) { format!("{} MiB", bytes >> 20) } else { format!("{bytes} bytes") }
}

/// How the adapter that is taken is used.
fn choice(adapter: &AdapterReport, options: &GpuOptions) -> String {
    let tier = options.tier.unwrap_or(adapter.tier);
    if let Some(needed) = adapter.lacks_for(tier) {
        return format!("cannot be used: the {} kernels need {needed}", tier.name());
    }
    let limit = adapter.max_binding_bytes.min(adapter.max_buffer_bytes);
    let binding = options.max_binding_bytes.map_or(limit, |bytes| bytes.min(limit));
    let units = if adapter.matrix_block.is_some() && tier == Tier::Gpu { "by --matrix-units" } else { "none" };
    format!("yes, {} kernels, bindings of at most {}, matrix units: {units}", tier.name(), size(binding))
}

/// The matrix units of an adapter, and with `tried` whether products on them are right.
fn matrix_units(adapter: &AdapterReport, options: &GpuOptions, tried: bool) -> String {
    let Some(block) = adapter.matrix_block else { return "no".into() };
    let adapter = AdapterChoice::Index(adapter.index);
    let open = || pollster::block_on(Gpu::open(&options.clone().adapter(adapter).matrix_units(true)));
    let verdict = match tried.then(open) {
        None => "products not tried (--matrix-units)".to_owned(),
        Some(Ok(gpu)) if gpu.cooperative_matrix() => "products tried: right".to_owned(),
        Some(Ok(_)) => "products tried: wrong, not used".to_owned(),
        Some(Err(error)) => format!("products not tried: {error}"),
    };
    format!("blocks of {block} x {block}; {verdict}")
}

fn describe(adapter: &AdapterReport, choice: &str, matrix_units: &str) -> String {
    let mib = |bytes: u64| format!("{} MiB", bytes >> 20);
    let yes = |there: bool| if there { "yes" } else { "no" };
    let subgroups = match adapter.subgroup_size {
        _ if !adapter.subgroups => "no".to_owned(),
        (least, most) if least == most => format!("of {least}"),
        (least, most) => format!("of {least} to {most}"),
    };
    let tier = match adapter.tier {
        Tier::Software => "software (registers and broadcasts of a subgroup)",
        Tier::Gpu => "gpu (register blocks fed from workgroup memory)",
        Tier::Plain => "plain (nothing optional)",
    };
    let tier = match &adapter.lacks {
        Some(needed) => format!("none: they need {needed}"),
        None => {
            let others = Tier::ALL.into_iter().filter(|tier| *tier != adapter.tier && adapter.runs(*tier));
            format!("{tier}; also {}", others.map(Tier::name).collect::<Vec<_>>().join(", "))
        }
    };
    [
        format!("{}: {} ({}, {})", adapter.index, adapter.name, adapter.backend, adapter.device_type),
        format!("   taken            {choice}"),
        format!("   driver           {}", adapter.driver),
        format!("   kernels          {tier}"),
        format!("   subgroups        {subgroups}; timestamps {}; f16 {}", yes(adapter.timestamps), yes(adapter.f16)),
        format!("   matrix units     {matrix_units}"),
        format!("   buffer, binding  {}, {}", mib(adapter.max_buffer_bytes), mib(adapter.max_binding_bytes)),
        format!(
            "   workgroup        {} threads, {} KiB; {} storage buffers a kernel\n",
            adapter.workgroup_threads,
            adapter.workgroup_bytes >> 10,
            adapter.storage_buffers
        ),
    ]
    .join("\n")
}
