//! SPIR-V of a kernel for Vulkan, with what naga leaves out of programs for matrix units.

use std::collections::{HashMap, HashSet};

use naga::back::spv;
use naga::proc::{BoundsCheckPolicies, BoundsCheckPolicy};
use naga::valid::{Capabilities, ValidationFlags, Validator};

/// The SPIR-V of one entry point in this version of the language, written as wgpu writes it for kernels
/// without checks, but [coherent].
///
/// # Errors
/// Why the module has none, as one line.
pub fn of(
    module: &naga::Module,
    entry_point: &str,
    lang_version: (u8, u8),
) -> Result<Vec<u32>, String> {
    let info = Validator::new(ValidationFlags::all(), Capabilities::all())
        .validate(module)
        .map_err(|error| format!("the module is not valid: {error}"))?;
    let unchecked = BoundsCheckPolicy::Unchecked;
    let options = spv::Options {
        lang_version,
        flags: spv::WriterFlags::empty(),
        bounds_check_policies: BoundsCheckPolicies {
            index: unchecked,
            buffer: unchecked,
            image_load: unchecked,
            binding_array: unchecked,
        },
        zero_initialize_workgroup_memory: spv::ZeroInitializeWorkgroupMemoryMode::None,
        force_loop_bounding: false,
        emit_int_div_checks: false,
        ..spv::Options::default()
    };
    let stage = spv::PipelineOptions {
        shader_stage: naga::ShaderStage::Compute,
        entry_point: entry_point.to_owned(),
    };
    let words = spv::write_vec(module, &info, &options, Some(&stage))
        .map_err(|error| format!("naga wrote no SPIR-V: {error}"))?;
    Ok(coherent(&words))
}

/// The version of SPIR-V that wgpu writes for a device with this version of Vulkan, encoded as in its API;
/// none before 1.2, for which nothing here is written.
#[must_use]
pub fn version(api_version: u32) -> Option<(u8, u8)> {
    match (api_version >> 22 & 0x7f, api_version >> 12 & 0x3ff) {
        (0, _) | (1, 0 | 1) => None,
        (1, 2) => Some((1, 5)),
        _ => Some((1, 6)),
    }
}

/// Words before the first instruction: magic number, version, generator, bound of ids, schema.
const HEADER: usize = 5;

// Instructions, by their numbers in the SPIR-V specification.
const MEMORY_MODEL: u32 = 14;
const CAPABILITY: u32 = 17;
const TYPE_POINTER: u32 = 32;
const CONSTANT: u32 = 43;
const FUNCTION: u32 = 54;
const FUNCTION_PARAMETER: u32 = 55;
const VARIABLE: u32 = 59;
const LOAD: u32 = 61;
const STORE: u32 = 62;
const ACCESS_CHAIN: u32 = 65;
const IN_BOUNDS_ACCESS_CHAIN: u32 = 66;
const CONTROL_BARRIER: u32 = 224;
const ATOMICS: std::ops::RangeInclusive<u32> = 227..=242; // OpAtomicLoad to OpAtomicXor
const MATRIX_LOAD: u32 = 4457; // OpCooperativeMatrixLoadKHR
const MATRIX_STORE: u32 = 4458;

/// The capability `VulkanMemoryModelDeviceScope`.
const DEVICE_SCOPE: u32 = 5346;
/// The memory model `Vulkan`, as against `GLSL450`.
const VULKAN: u32 = 3;
/// The storage class of workgroup memory.
const WORKGROUP: u32 = 4;
/// `NonPrivatePointer` among an access's memory operands.
const NON_PRIVATE: u32 = 0x20;
/// `WorkgroupMemory` among a barrier's memory semantics.
const WORKGROUP_MEMORY: u32 = 0x100;
/// `MakeAvailable` and `MakeVisible` among them.
const AVAILABLE_AND_VISIBLE: u32 = 0x2000 | 0x4000;

/// A module under Vulkan's memory model whose invocations see what others of their workgroup have written
/// to its memory. Programs with cooperative matrices have to state that model, and under it an access is
/// an invocation's private matter, and a barrier makes nothing visible, unless each says otherwise, which
/// naga's do not ([wgpu's issue 8805](https://github.com/gfx-rs/wgpu/issues/8805)): a compiler may keep a
/// store back past a barrier. Here every access to workgroup memory is non-private, and every barrier on it
/// makes writes available and visible. Atomic operations on buffers are of the whole device's scope, for
/// which that model wants a capability that naga does not declare, though wgpu switches the device's on.
/// Under another model a module comes back as it is.
#[must_use]
pub fn coherent(words: &[u32]) -> Vec<u32> {
    let Some((header, code)) = words.split_at_checked(HEADER) else {
        return words.to_vec();
    };
    let instructions = instructions(code);
    let is_vulkan = |one: &[u32]| opcode(one) == MEMORY_MODEL && one.get(2) == Some(&VULKAN);
    if !instructions.iter().any(|one| is_vulkan(one)) {
        return words.to_vec();
    }
    let mut pointer_types = HashSet::new();
    let mut pointers = HashSet::new();
    let mut constants = HashMap::new();
    for one in &instructions {
        match (opcode(one), *one) {
            (TYPE_POINTER, [_, id, WORKGROUP, ..]) => {
                pointer_types.insert(*id);
            }
            (
                VARIABLE | ACCESS_CHAIN | IN_BOUNDS_ACCESS_CHAIN | FUNCTION_PARAMETER,
                [_, of, id, ..],
            ) if pointer_types.contains(of) => {
                pointers.insert(*id);
            }
            (CONSTANT, [_, of, id, value]) => {
                constants.insert(*id, (*of, *value));
            }
            _ => {}
        }
    }
    let mut bound = header[3];
    // Barriers' semantics are constants, which something else may use as a number.
    let mut semantics: HashMap<u32, u32> = HashMap::new();
    let mut added = Vec::new();
    for one in &instructions {
        let (CONTROL_BARRIER, [_, _, _, id]) = (opcode(one), *one) else {
            continue;
        };
        let Some((of, value)) = constants.get(id) else {
            continue;
        };
        let private = value & AVAILABLE_AND_VISIBLE != AVAILABLE_AND_VISIBLE;
        if value & WORKGROUP_MEMORY != 0 && private && !semantics.contains_key(id) {
            added.extend([
                4 << 16 | CONSTANT,
                *of,
                bound,
                value | AVAILABLE_AND_VISIBLE,
            ]);
            semantics.insert(*id, bound);
            bound += 1;
        }
    }
    let mut coherent = header.to_vec();
    coherent[3] = bound;
    let declares = |one: &&[u32]| matches!(**one, [_, DEVICE_SCOPE] if opcode(one) == CAPABILITY);
    let is_atomic = |one: &&[u32]| ATOMICS.contains(&opcode(one));
    if instructions.iter().any(is_atomic) && !instructions.iter().any(declares) {
        coherent.extend([2 << 16 | CAPABILITY, DEVICE_SCOPE]);
    }
    for one in &instructions {
        // Where the memory operands stand, and the pointer that they are of.
        let (pointer, operands) = match opcode(one) {
            FUNCTION => {
                coherent.append(&mut added);
                (None, 0)
            }
            LOAD => (one.get(3), 4),
            STORE => (one.get(1), 3),
            MATRIX_LOAD => (one.get(3), 6),
            MATRIX_STORE => (one.get(1), 5),
            _ => (None, 0),
        };
        let mut one = one.to_vec();
        if pointer.is_some_and(|pointer| pointers.contains(pointer)) {
            // Without a stride a matrix's access has no place for them; naga writes it always.
            if one.len() == operands {
                one.push(0);
                one[0] += 1 << 16; // one word more
            }
            if let Some(operands) = one.get_mut(operands) {
                *operands |= NON_PRIVATE;
            }
        }
        if opcode(&one) == CONTROL_BARRIER
            && let Some(new) = one.get(3).and_then(|id| semantics.get(id))
        {
            one[3] = *new;
        }
        coherent.extend(one);
    }
    coherent
}

fn opcode(instruction: &[u32]) -> u32 {
    instruction.first().map_or(0, |word| word & 0xffff)
}

/// The instructions one by one, as far as they are whole.
fn instructions(mut code: &[u32]) -> Vec<&[u32]> {
    let mut all = Vec::new();
    while let Some(first) = code.first()
        && let Some((one, rest)) = code.split_at_checked((first >> 16).max(1) as usize)
    {
        all.push(one);
        code = rest;
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalogue::{Engine, kernels};
    use crate::shader;
    use crate::variant::combinations;

    /// How many accesses to workgroup memory and how many barriers on it there are, and whether all are
    /// as others have to see them. Read anew, with nothing of the code above but where instructions end.
    fn seen(words: &[u32]) -> (usize, usize, bool) {
        let code = instructions(&words[5..]);
        let mut types = HashMap::new();
        let mut classes = HashMap::new();
        let mut values = HashMap::new();
        let (mut accesses, mut barriers, mut all) = (0, 0, true);
        for one in code {
            let number = one[0] & 0xffff;
            match number {
                32 => drop(types.insert(one[1], one[2])),
                43 => drop(values.insert(one[2], one[3])),
                55 | 59 | 65 | 66 => {
                    if let Some(class) = types.get(&one[1]) {
                        classes.insert(one[2], *class);
                    }
                }
                61 | 62 | 4457 | 4458 => {
                    let loads = number == 61 || number == 4457;
                    if classes[&one[if loads { 3 } else { 1 }]] == 4 {
                        let plain = [(61, 4), (62, 3), (4457, 6), (4458, 5)];
                        let at = plain.iter().find(|(of, _)| *of == number).unwrap().1;
                        accesses += 1;
                        all &= one.get(at).is_some_and(|mask| mask & 0x20 != 0);
                    }
                }
                224 => {
                    let semantics = values[&one[3]];
                    if semantics & 0x100 != 0 {
                        barriers += 1;
                        all &= semantics & 0x6000 == 0x6000 && semantics & 0x8 != 0;
                    }
                }
                _ => {}
            }
        }
        (accesses, barriers, all)
    }

    #[test]
    fn the_language_is_as_new_as_the_api() {
        let of_vulkan = |minor: u32| version(1 << 22 | minor << 12 | 7);
        assert_eq!([1, 2, 3].map(of_vulkan), [None, Some((1, 5)), Some((1, 6))]);
        assert_eq!(of_vulkan(4), Some((1, 6)));
    }

    #[test]
    fn programs_for_matrix_units_show_workgroup_memory_to_all_their_invocations() {
        let (mut accesses, mut barriers) = (0, 0);
        for kernel in kernels() {
            let preferred = combinations(&kernel).remove(0);
            for &dtype in kernel.dtypes {
                let built = shader::build(&kernel.name, &kernel.source, &preferred, dtype).unwrap();
                for pass in kernel.passes {
                    let place = format!("{} {dtype} {}", kernel.name, pass.entry_point);
                    let words = of(&built.module, pass.entry_point, (1, 6)).unwrap();
                    let model = words[5..].windows(3).find(|one| one[0] == 3 << 16 | 14);
                    let is_vulkan = model.unwrap()[2] == 3;
                    assert!(!is_vulkan || kernel.engine == Engine::Matrix, "{place}");
                    let (some, walls, all) = seen(&words);
                    if is_vulkan {
                        assert!(all, "{place}");
                        // Atomics on a buffer are of the device.
                        let declared = words[5..].windows(2).any(|one| one == [2 << 16 | 17, 5346]);
                        assert_eq!(declared, kernel.source.contains("atomicAdd("), "{place}");
                        (accesses, barriers) = (accesses + some, barriers + walls);
                    } else {
                        // Nothing was done to it.
                        assert!(!all || some + walls == 0, "{place}");
                    }
                    // Instructions end where the module does, and no id is beyond the bound.
                    let length: usize = instructions(&words[5..]).iter().map(|one| one.len()).sum();
                    assert_eq!(length, words.len() - 5, "{place}");
                    assert_eq!(coherent(&words).len(), words.len(), "{place}: not twice");
                }
            }
        }
        assert!(accesses > 100 && barriers > 50, "{accesses} {barriers}");
    }
}
