//! Translations of a shader for each kind of driver, for a bug report.

use naga::ShaderStage;
use naga::back;

use super::Job;
use super::parse::Prepared;

/// A shader's translations: the name of a file and its content, or why there is none.
pub(in crate::verify) fn translations(job: &Job) -> Vec<(&'static str, Result<Vec<u8>, String>)> {
    let prepared = match Prepared::new(job) {
        Ok(prepared) => prepared,
        Err(error) => return vec![("shader.spv", Err(error.to_string()))],
    };
    let constants: back::PipelineConstants = job.constants.iter().map(|(n, v)| (n.clone(), *v)).collect();
    let entry = Some((ShaderStage::Compute, job.entry.as_str()));
    let fixed = back::pipeline_constants::process_overrides(&prepared.module, &prepared.info, entry, &constants);
    let (module, info) = match fixed {
        Ok(fixed) => fixed,
        Err(error) => return vec![("shader.spv", Err(error.to_string()))],
    };
    let spv = back::spv::Options { lang_version: (1, 3), ..Default::default() };
    let spv = back::spv::write_vec(&module, &info, &spv, None).map_err(|e| e.to_string());
    let spv = spv.map(|words| words.into_iter().flat_map(u32::to_le_bytes).collect());
    let msl = back::msl::Options { lang_version: (3, 0), fake_missing_bindings: true, ..Default::default() };
    let msl = back::msl::write_string(&module, &info, &msl, &back::msl::PipelineOptions::default());
    let msl = msl.map(|(text, _)| text.into_bytes()).map_err(|e| e.to_string());
    let options = back::hlsl::Options {
        shader_model: back::hlsl::ShaderModel::V6_6,
        fake_missing_bindings: true,
        ..Default::default()
    };
    let (mut hlsl, pipeline) = (String::new(), back::hlsl::PipelineOptions::default());
    let written = back::hlsl::Writer::new(&mut hlsl, &options, &pipeline).write(&module, &info, None);
    let hlsl = written.map_err(|e| e.to_string()).map(|_| hlsl.into_bytes());
    vec![("shader.spv", spv), ("shader.metal", msl), ("shader.hlsl", hlsl)]
}
