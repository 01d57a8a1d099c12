//! `sdmoe devices`: every adapter with what it can do and the family of kernels it gets.

use crate::error::{Error, Result};
use crate::gpu::{AdapterReport, Tier, adapters};

/// Lists the adapters.
pub(super) fn run() -> Result<()> {
    let found = pollster::block_on(adapters());
    if found.is_empty() {
        return Err(Error::NoAdapter);
    }
    super::print(&found.iter().map(describe).collect::<Vec<_>>().join("\n"))
}

fn describe(adapter: &AdapterReport) -> String {
    let yes = |there: bool| if there { "yes" } else { "no" };
    let mib = |bytes: u64| format!("{} MiB", bytes >> 20);
    let subgroups = match adapter.subgroup_size {
        _ if !adapter.subgroups => "no".to_owned(),
        (least, most) if least == most => format!("of {least}"),
        (least, most) => format!("of {least} to {most}"),
    };
    let tier = match adapter.tier {
        Tier::Subgroup => "subgroup (registers and broadcasts, for software adapters)",
        Tier::Workgroup => "workgroup (register blocks fed from workgroup memory, for GPUs)",
        Tier::Plain => "plain (nothing optional)",
    };
    [
        format!("{}: {} ({}, {})", adapter.index, adapter.name, adapter.backend, adapter.device_type),
        format!("   driver           {}", adapter.driver),
        format!("   kernels          {tier}"),
        format!("   subgroups        {subgroups}; timestamps {}; f16 {}", yes(adapter.timestamps), yes(adapter.f16)),
        format!("   matrix units     {}", yes(adapter.matrix_units)),
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
