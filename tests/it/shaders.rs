//! Every kernel in every variant is validated and translated to SPIR-V, MSL, HLSL and GLSL, without a GPU: a shader that
//! only one vendor's compiler takes is found here. Those for matrix units are translated to SPIR-V alone: naga has them in
//! no other language but MSL, and Metal has no blocks of 16 x 16.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fs;
use std::path::{Path, PathBuf};

use naga::back;
use naga::valid::{Capabilities, ModuleInfo, ValidationFlags, Validator};
use sdmoe::gpu::{BindingKind, DType, Kernel, NEEDS, compose_half, reflect, reflect_half, sources};
use sdmoe::low_level::kernels::Variant;
use sdmoe::low_level::kernels::matrix_shapes::{MATRIX_SHAPES, MatrixShape};

fn validate(module: &naga::Module, name: &str) -> ModuleInfo {
    let mut validator = Validator::new(ValidationFlags::all(), Capabilities::all());
    validator.subgroup_stages(naga::valid::ShaderStages::COMPUTE);
    validator.subgroup_operations(naga::valid::SubgroupOperationSet::all());
    validator.validate(module).unwrap_or_else(|e| panic!("{name}: {e:?}"))
}

/// The sets of variables that are stored in f16: none; all that can be; and where they need not go together, all but one.
fn stored_in_f16(kernel: &Kernel) -> Vec<Vec<String>> {
    let names: Vec<String> =
        reflect(kernel).unwrap_or_else(|e| panic!("{e}")).bindings.into_iter().map(|b| b.name).collect();
    let halves = |names: &[&str]| -> Vec<String> {
        let reflection = reflect_half(kernel, names).unwrap_or_else(|e| panic!("{e}"));
        reflection.bindings.into_iter().filter(|b| b.element == Some(DType::F16)).map(|b| b.name).collect()
    };
    let all = halves(&names.iter().map(String::as_str).collect::<Vec<_>>());
    let mut sets = vec![Vec::new()];
    if !all.is_empty() {
        sets.push(all.clone());
    }
    for one in all.iter().filter(|_| all.len() > 1) {
        let others: Vec<&str> = all.iter().filter(|n| *n != one).map(String::as_str).collect();
        if halves(&others) == others {
            sets.push(others.into_iter().map(str::to_owned).collect());
        }
    }
    sets
}

/// The module with this variant's override constants in place.
fn specialise(variant: &Variant, half: &[&str]) -> (naga::Module, ModuleInfo) {
    let kernel = variant.kernel;
    let source = compose_half(kernel, half).unwrap_or_else(|e| panic!("{e}"));
    let module = naga::front::wgsl::parse_str(&source)
        .unwrap_or_else(|e| panic!("{}: {}", kernel.name, e.emit_to_string(&source)));
    let info = validate(&module, kernel.name);
    let constants: naga::back::PipelineConstants =
        kernel.constants.iter().chain(&variant.constants).map(|(n, v)| ((*n).to_owned(), *v)).collect();
    let entry = Some((naga::ShaderStage::Compute, kernel.entry));
    let (module, info) = back::pipeline_constants::process_overrides(&module, &info, entry, &constants)
        .unwrap_or_else(|e| panic!("{}: {e}", kernel.name));
    (module.into_owned(), info.into_owned())
}

#[test]
fn every_kernel_translates_to_every_backend() {
    let variants = sdmoe::low_level::catalog::kernels();
    assert!(variants.len() >= 3);
    let mut in_f16 = 0;
    let mut only_spirv = BTreeSet::new();
    for (variant, set) in variants.iter().flat_map(|v| stored_in_f16(v.kernel).into_iter().map(move |s| (v, s))) {
        let half: Vec<&str> = set.iter().map(String::as_str).collect();
        in_f16 += usize::from(!half.is_empty());
        let kernel = variant.kernel;
        let name = &format!("{}, f16 {half:?}", kernel.name);
        let (module, info) = specialise(variant, &half);
        let capabilities = back::spv::Options { lang_version: (1, 3), ..Default::default() };
        back::spv::write_vec(&module, &info, &capabilities, None).unwrap_or_else(|e| panic!("{name}: SPIR-V: {e}"));
        // Metal has blocks of 8 alone, DX12 and OpenGL none.
        if kernel.name.contains("_cooperative_16_") {
            only_spirv.insert(kernel.name);
            continue;
        }
        let msl = back::msl::Options { lang_version: (2, 4), fake_missing_bindings: true, ..Default::default() };
        back::msl::write_string(&module, &info, &msl, &back::msl::PipelineOptions::default())
            .unwrap_or_else(|e| panic!("{name}: MSL: {e}"));
        if kernel.needs_cooperative_matrix() {
            continue;
        }
        let hlsl = back::hlsl::Options {
            // The first with f16.
            shader_model: if half.is_empty() { back::hlsl::ShaderModel::V6_0 } else { back::hlsl::ShaderModel::V6_2 },
            fake_missing_bindings: true,
            ..Default::default()
        };
        let mut text = String::new();
        back::hlsl::Writer::new(&mut text, &hlsl, &back::hlsl::PipelineOptions::default())
            .write(&module, &info, None)
            .unwrap_or_else(|e| panic!("{name}: HLSL: {e}"));
        let glsl = back::glsl::Options { version: back::glsl::Version::new_gles(310), ..Default::default() };
        let options = back::glsl::PipelineOptions {
            shader_stage: naga::ShaderStage::Compute,
            entry_point: kernel.entry.to_owned(),
            multiview: None,
        };
        // GLES has neither subgroups nor u64 nor f16; what uses them never runs there.
        let text = compose_half(kernel, &half).unwrap();
        if !["subgroup", "u64"].iter().any(|word| text.contains(word)) && half.is_empty() {
            let policies = naga::proc::BoundsCheckPolicies::default();
            let mut text = String::new();
            back::glsl::Writer::new(&mut text, &module, &info, &glsl, &options, policies)
                .and_then(|mut writer| writer.write())
                .unwrap_or_else(|e| panic!("{name}: GLSL: {e}"));
        }
    }
    assert!(in_f16 >= 40, "{in_f16} kernels can store in f16");
    let for_matrix_units = ["gemm", "grouped_gemm", "grouped_weight_gradient"];
    let for_matrix_units =
        for_matrix_units.map(|entry| ["2x2", "2x4"].map(|part| format!("{entry}_cooperative_16_{part}")));
    assert_eq!(only_spirv.len(), 6);
    assert!(for_matrix_units.iter().flatten().all(|name| only_spirv.contains(name.as_str())), "{only_spirv:?}");
}

#[test]
fn every_kernel_keeps_to_the_limits_that_devices_are_asked_for_which_are_no_more_than_webgpus_defaults() {
    let mut most = BTreeMap::<&str, u64>::new();
    let mut note = |limit, value: u64| {
        let entry = most.entry(limit).or_default();
        *entry = value.max(*entry);
    };
    for variant in sdmoe::low_level::catalog::kernels() {
        let (module, _) = specialise(&variant, &[]);
        let name = variant.kernel.name;
        let entry = module.entry_points.iter().find(|e| e.name == variant.kernel.entry).unwrap();
        let threads: u32 = entry.workgroup_size.iter().product();
        let reflection = reflect(variant.kernel).unwrap_or_else(|e| panic!("{e}"));
        let storage = reflection.bindings.iter().filter(|b| !matches!(b.kind, BindingKind::Uniform { .. })).count();
        assert_eq!(entry.workgroup_size[1..], [1, 1], "{name}");
        note("max_storage_buffers_per_shader_stage", storage as u64);
        note("max_bindings_per_bind_group", reflection.bindings.iter().map(|b| b.index + 1).max().unwrap_or(0).into());
        note("max_uniform_buffers_per_shader_stage", (reflection.bindings.len() - storage) as u64);
        let context = module.to_ctx();
        let bytes: u32 = module
            .global_variables
            .iter()
            .filter(|(_, v)| v.space == naga::AddressSpace::WorkGroup)
            .map(|(_, v)| module.types[v.ty].inner.size(context))
            .sum();
        // Those on matrix units run where their shape fits, which says how much it takes.
        if variant.kernel.needs_cooperative_matrix() {
            let lanes = variant.constants.iter().find(|(name, _)| *name == "LANES").unwrap().1 as u32;
            let suits = |shape: &&MatrixShape| {
                shape.constants((lanes, lanes))[..3].iter().all(|c| variant.constants.contains(c))
            };
            let shape = MATRIX_SHAPES.iter().find(suits).unwrap();
            assert_eq!((bytes as usize, threads as usize), (shape.bytes(), shape.threads(lanes as usize)), "{shape}");
            continue;
        }
        note("max_compute_workgroup_storage_size", bytes.into());
        note("max_compute_invocations_per_workgroup", threads.into());
        note("max_compute_workgroup_size_x", entry.workgroup_size[0].into());
    }
    for (limit, value) in most {
        let asked = NEEDS.iter().find(|need| need.limit == limit).unwrap_or_else(|| panic!("{limit} is not asked for"));
        assert!(value <= asked.least, "{limit}: {value} needed, {} asked for", asked.least);
    }
    for need in NEEDS {
        assert!(need.met_by(&wgpu::Limits::default()), "{} of {}", need.limit, need.least);
    }
}

#[test]
fn kernel_names_are_unique() {
    let mut seen = HashSet::new();
    let mut statics = HashSet::new();
    for variant in sdmoe::low_level::catalog::kernels() {
        if statics.insert(std::ptr::from_ref(variant.kernel)) {
            assert!(seen.insert(variant.kernel.name), "two kernels are called {}", variant.kernel.name);
        }
    }
}

/// The files below a folder of the crate that end so.
fn files(folder: &str, extension: &str) -> Vec<PathBuf> {
    let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join(folder)];
    let mut found = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == extension) {
                found.push(path);
            }
        }
    }
    found
}

/// The name that begins a text.
fn name(text: &str) -> String {
    text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
}

#[test]
fn every_shader_and_each_of_its_entry_points_belongs_to_a_kernel_of_the_list() {
    let variants = sdmoe::low_level::catalog::kernels();
    let with_needs = |v: &Variant| (v.kernel.entry, sources(v.kernel).unwrap_or_else(|e| panic!("{e}")));
    let kernels: Vec<(&str, Vec<&str>)> = variants.iter().map(with_needs).collect();
    let shaders = files("shaders", "wgsl");
    assert!(shaders.len() > 50, "found only {} shaders", shaders.len());
    for shader in shaders {
        let text = fs::read_to_string(&shader).unwrap();
        let made_of_it = || kernels.iter().filter(|(_, sources)| sources.contains(&text.as_str()));
        assert!(made_of_it().next().is_some(), "no kernel of the list is made of {}", shader.display());
        for own in text.split("@compute").skip(1).map(|rest| name(rest.split_once("fn ").unwrap().1)) {
            let entered = made_of_it().any(|(entry, _)| *entry == own);
            assert!(entered, "no kernel of the list enters {} at {own}", shader.display());
        }
    }
}

#[test]
fn every_source_that_a_kernel_chooses_is_needed_and_its_parameters_are_made_from_rust() {
    for kernel in sdmoe::low_level::catalog::kernels().iter().map(|v| v.kernel) {
        let (own, chosen) = kernel.sources.split_last().unwrap();
        let found = sources(kernel).unwrap();
        assert_eq!(found.last(), Some(own), "{}: a source is chosen that nothing needs", kernel.name);
        assert!(
            chosen.iter().all(|source| source.contains("// provides: ")),
            "{}: what is needed is found",
            kernel.name
        );
        assert!(found.iter().all(|source| !source.contains("struct Params")), "{}", kernel.name);
    }
}

#[test]
fn a_need_that_is_not_met_is_an_error_by_its_name() {
    static LACKS_FILE: Kernel = Kernel::new("lacks_file", &["// needs: lib/none.wgsl"]);
    static LACKS_PACK: Kernel = Kernel::new("lacks_pack", &["// needs: pack"]);
    let message = |kernel| sources(kernel).unwrap_err().to_string();
    assert!(message(&LACKS_FILE).contains("needs `lib/none.wgsl`"), "{}", message(&LACKS_FILE));
    assert!(message(&LACKS_PACK).contains("lib/pack_scalar.wgsl, lib/pack_vec4.wgsl"), "{}", message(&LACKS_PACK));
}

#[test]
fn every_static_with_kernels_is_named_in_a_modules_list_of_kernels() {
    // Without what is documentation.
    let code = |file: &PathBuf| {
        let text = fs::read_to_string(file).unwrap();
        text.lines().filter(|line| !line.starts_with("//")).map(|line| format!("{line}\n")).collect::<String>()
    };
    let texts: Vec<_> = files("src", "rs").into_iter().map(|f| (code(&f), f)).collect();
    // What the functions called `kernels` name: their bodies end with the first brace that begins a line.
    let lists = texts.iter().flat_map(|(text, _)| text.split("fn kernels()").skip(1));
    let lists: Vec<&str> = lists.map(|rest| rest.split("\n}\n").next().unwrap()).collect();
    let listed: HashSet<String> = lists
        .iter()
        .flat_map(|body| body.split(|c: char| !c.is_alphanumeric() && c != '_'))
        .map(str::to_owned)
        .collect();
    let kinds = ["Kernel", "PackKernels", "RowKernels", "GroupKernels", "FourKernels", "WorkgroupKernels", "Stores"];
    let mut checked = 0;
    for (text, file) in &texts {
        let plain = text.split("static ").skip(1).filter_map(|rest| {
            let (own, kind) = rest.split_once(": ")?;
            (name(own) == own && kinds.contains(&name(kind).as_str())).then(|| own.to_owned())
        });
        // Those that a macro declares: its documentation, then the static.
        let made = ["\nocts! {", "\nfamily! {"].into_iter().flat_map(|call| text.split(call).skip(1)).map(|rest| {
            let (_, after) = rest.split_once("\", ").unwrap();
            name(after)
        });
        for own in plain.chain(made) {
            checked += 1;
            assert!(listed.contains(&own), "{}: {own} is in no function `kernels`", file.display());
        }
    }
    assert!(checked > 70, "found only {checked} statics");
}
