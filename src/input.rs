//! Inputs that every runner makes for itself from `(seed, tensor, index)`.
//!
//! Nothing large crosses the pipe and nothing can be cached between runs, because each element is
//! a pure function of three integers. The same function stands in `shaders/input/fill.wgsl`; the
//! test vectors below and in `docs/protocol.md` pin it for everyone else.

use std::collections::BTreeMap;
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How the elements of the input tensors are drawn.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Data {
    /// Uniform in `[-1, 1)` on a grid of 2^-23, times the tensor's scale: the regime that is timed.
    /// In f16 and tf32 the grid is 2^-10, in bf16 2^-7, in f8e4m3 2^-3; integer tensors have
    /// `-128..=127` instead, of 4 bits `-8..=7`.
    Uniform,
    /// Integers in `-2..=5`: sums of products are exact in an f32 accumulator, so that results
    /// must be bit-exact, and large enough to overflow the exact range of a lower-precision one.
    Integer,
    /// All zeros.
    Zero,
    /// The user's own tensors: name of the tensor to a `.npy` file the runner can read.
    Files(BTreeMap<String, PathBuf>),
    /// One cycle through this many slots: see [`Cycle`]. Never asked for: a tensor that is a cycle
    /// is one whatever the case asks.
    #[serde(skip)]
    Cycle(u32),
    /// All numbers below this one, each once: see [`Permutation`]. Never asked for either.
    #[serde(skip)]
    Permutation(u32),
}

impl Data {
    /// The word used in labels: `uniform`, `integer`, `zero` or `files`.
    #[must_use]
    pub fn label(&self) -> &'static str {
        match self {
            Self::Uniform => "uniform",
            Self::Integer => "integer",
            Self::Zero => "zero",
            Self::Files(_) => "files",
            Self::Cycle(_) => "cycle",
            Self::Permutation(_) => "permutation",
        }
    }
}

/// How one element of a tensor lies in memory, little-endian and without gaps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Element {
    /// IEEE 754 binary32.
    F32,
    /// The same of which matrix units take the first 10 bits of the significand: TF32.
    Tf32,
    /// IEEE 754 binary16, two to a 32-bit word.
    F16,
    /// The upper half of a binary32: 8 bits of exponent, 7 of significand.
    Bf16,
    /// 4 bits of exponent, 3 of significand, no infinities, as the Open Compute Project defines it
    /// (OFP8 E4M3); four to a 32-bit word.
    F8E4M3,
    /// 32-bit integer in two's complement.
    I32,
    /// 8-bit integer in two's complement, four to a 32-bit word, the first in the lowest byte.
    I8,
    /// 4-bit integer in two's complement, eight to a 32-bit word, the first in the lowest bits.
    I4,
}

impl Element {
    /// Every element type there is.
    pub const ALL: [Self; 8] = [
        Self::F32,
        Self::Tf32,
        Self::F16,
        Self::Bf16,
        Self::F8E4M3,
        Self::I32,
        Self::I8,
        Self::I4,
    ];

    /// Bits of one element.
    #[must_use]
    pub const fn size_bits(self) -> u64 {
        match self {
            Self::F32 | Self::Tf32 | Self::I32 => 32,
            Self::F16 | Self::Bf16 => 16,
            Self::F8E4M3 | Self::I8 => 8,
            Self::I4 => 4,
        }
    }

    /// Bytes of so many elements, without the padding to whole words.
    #[must_use]
    pub const fn bytes(self, count: u64) -> u64 {
        (count * self.size_bits()).div_ceil(8)
    }

    /// Half the distance from one to the next number, and the smallest normal number, below which
    /// hardware may give zero. Integers are exact; the smallest normal number of an exponent of 8
    /// bits is none to care for.
    #[must_use]
    pub const fn roundoff(self) -> (f64, f64) {
        match self {
            Self::F32 => (1.0 / 16_777_216.0, 0.0),
            Self::Tf32 => (1.0 / 2048.0, 0.0),
            Self::F16 => (1.0 / 2048.0, 1.0 / 16_384.0),
            Self::Bf16 => (1.0 / 256.0, 0.0),
            Self::F8E4M3 => (1.0 / 16.0, 1.0 / 64.0),
            Self::I32 | Self::I8 | Self::I4 => (0.0, 0.0),
        }
    }

    /// The element type of this name.
    #[must_use]
    pub fn named(label: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|element| element.label() == label)
    }

    /// The name in messages: `f32`, `tf32`, `f16`, `bf16`, `f8e4m3`, `i32`, `i8` or `i4`.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Tf32 => "tf32",
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
            Self::F8E4M3 => "f8e4m3",
            Self::I32 => "i32",
            Self::I8 => "i8",
            Self::I4 => "i4",
        }
    }

    /// The number by which the fill shader knows it, if it does.
    #[must_use]
    pub const fn code(self) -> Option<u32> {
        match self {
            Self::F32 => Some(0),
            Self::F16 => Some(1),
            Self::I32 => Some(2),
            Self::I8 => Some(3),
            Self::I4 => Some(4),
            Self::Tf32 | Self::Bf16 | Self::F8E4M3 => None,
        }
    }

    /// The word that an output is filled with before a call, so that an element nobody writes
    /// shows: quiet NaNs with every mantissa bit set, of one f32 or of two f16 alike; for integers,
    /// which have no NaN, the lowest number, which no operation here yields.
    #[must_use]
    pub const fn poison(self) -> u32 {
        match self {
            Self::F32 | Self::Tf32 | Self::F16 | Self::Bf16 => 0x7fff_ffff,
            Self::F8E4M3 => 0x7f7f_7f7f,
            Self::I32 => 0x8000_0000,
            Self::I8 => 0x8080_8080,
            Self::I4 => 0x8888_8888,
        }
    }

    /// The uniform value of a random word, before the tensor's scale. Every value is exact in its
    /// type, because how a shader rounds to f16 is the driver's choice.
    #[must_use]
    #[allow(clippy::cast_precision_loss)] // 11 and 8 bits
    pub fn uniform(self, word: u32) -> f32 {
        match self {
            Self::F32 => uniform(word),
            Self::Tf32 | Self::F16 => (word >> 21) as f32 * (1.0 / 1024.0) - 1.0,
            Self::Bf16 => (word >> 24) as f32 * (1.0 / 128.0) - 1.0,
            Self::F8E4M3 => (word >> 28) as f32 * (1.0 / 8.0) - 1.0,
            Self::I32 | Self::I8 => (word >> 24) as f32 - 128.0,
            Self::I4 => (word >> 28) as f32 - 8.0,
        }
    }

    /// Element `index` of a tensor that lies in `bytes`. The poison of an integer type is a NaN
    /// here as it is in the others, and so is what lies beyond the end.
    #[must_use]
    #[inline]
    pub fn get(self, bytes: &[u8], index: usize) -> f64 {
        let bits = self.size_bits() as usize;
        let Some(found) = index
            .checked_mul(bits)
            .and_then(|start| bytes.get(start / 8..(start / 8).checked_add(bits.div_ceil(8))?))
        else {
            return f64::NAN;
        };
        match (self, found) {
            (Self::F32 | Self::Tf32, &[a, b, c, d]) => f64::from(f32::from_le_bytes([a, b, c, d])),
            (Self::Bf16, &[a, b]) => half::bf16::from_le_bytes([a, b]).to_f64(),
            (Self::F8E4M3, &[a]) => f64::from(f8e4m3_value(a)),
            (Self::F16, &[a, b]) => half::f16::from_le_bytes([a, b]).to_f64(),
            (Self::I32, &[a, b, c, d]) => match i32::from_le_bytes([a, b, c, d]) {
                i32::MIN => f64::NAN,
                value => f64::from(value),
            },
            (Self::I8, &[a]) => match i8::from_le_bytes([a]) {
                i8::MIN => f64::NAN,
                value => f64::from(value),
            },
            (Self::I4, &[a]) => match (a << (4 * (1 - index % 2))).cast_signed() >> 4 {
                -8 => f64::NAN,
                value => f64::from(value),
            },
            _ => f64::NAN,
        }
    }

    /// The value of this type next to `value`; integers beyond the range end at its ends.
    #[must_use]
    #[allow(clippy::cast_possible_truncation, clippy::cast_precision_loss)] // that is the point
    pub fn nearest(self, value: f32) -> f32 {
        match self {
            Self::F32 => value,
            // To nearest, ties to even; what is added carries into the exponent where it must.
            Self::Tf32 => {
                let bits = value.to_bits();
                f32::from_bits((bits + 0xfff + (bits >> 13 & 1)) & !0x1fff)
            }
            Self::F16 => half::f16::from_f32(value).to_f32(),
            Self::Bf16 => half::bf16::from_f32(value).to_f32(),
            Self::F8E4M3 => f8e4m3_value(f8e4m3_bits(value)),
            Self::I32 => value.round() as i32 as f32,
            Self::I8 => f32::from(value.round() as i8),
            Self::I4 => value.round().clamp(-8.0, 7.0),
        }
    }

    /// The bits of the value of this type next to `value`, the upper ones zero.
    #[must_use]
    #[inline]
    #[allow(clippy::cast_possible_truncation)] // that is the point
    pub fn bits(self, value: f32) -> u32 {
        match self {
            Self::F32 => value.to_bits(),
            Self::Tf32 => self.nearest(value).to_bits(),
            Self::F16 => half::f16::from_f32(value).to_bits().into(),
            Self::Bf16 => half::bf16::from_f32(value).to_bits().into(),
            Self::F8E4M3 => f8e4m3_bits(value).into(),
            Self::I32 => (value.round() as i32).cast_unsigned(),
            Self::I8 => (value.round() as i8).cast_unsigned().into(),
            Self::I4 => u32::from((self.nearest(value) as i8).cast_unsigned() & 0xf),
        }
    }

    /// `values`, each made the nearest of this type, as they lie in memory, padded with zeros to
    /// whole 32-bit words.
    #[must_use]
    pub fn pack(self, values: &[f32]) -> Vec<u8> {
        let (size, per_word) = (self.size_bits(), (32 / self.size_bits()) as usize);
        values
            .chunks(per_word)
            .flat_map(|values| {
                (0u64..)
                    .zip(values)
                    .fold(0, |word, (at, &value)| {
                        word | self.bits(value) << (at * size)
                    })
                    .to_le_bytes()
            })
            .collect()
    }
}

/// The number that a byte is in OFP8 E4M3: bias 7, subnormals in steps of 2^-9, and all bits but the
/// sign set for a NaN.
fn f8e4m3_value(bits: u8) -> f32 {
    let (exponent, significand) = (i32::from(bits >> 3 & 0xf), f32::from(bits & 7));
    let magnitude = match (exponent, bits & 7) {
        (15, 7) => f32::NAN,
        (0, _) => significand * 2f32.powi(-9),
        _ => (8.0 + significand) * 2f32.powi(exponent - 10),
    };
    if bits >> 7 == 1 {
        -magnitude
    } else {
        magnitude
    }
}

/// The byte of the nearest number in OFP8 E4M3, ties to even; beyond the range its end, 448.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // four bits, three bits
fn f8e4m3_bits(value: f32) -> u8 {
    let sign = u8::from(value.is_sign_negative()) << 7;
    if value.is_nan() {
        return sign | 0x7f;
    }
    let magnitude = value.abs().min(448.0);
    // Eight steps to a binade, whose exponent is that of a binary32.
    let exponent = ((magnitude.to_bits() >> 23) as i32 - 127).max(-6);
    let steps = (magnitude * 2f32.powi(3 - exponent)).round_ties_even() as i32;
    // Sixteen steps carry into the next binade, fewer than eight are subnormal: both add up.
    sign | ((exponent + 6) * 8 + steps) as u8
}

/// Chris Wellons' `lowbias32` integer mixer: a bijection of 32 bits with measured low bias.
#[must_use]
pub const fn mix(mut x: u32) -> u32 {
    x ^= x >> 16;
    x = x.wrapping_mul(0x7feb_352d);
    x ^= x >> 15;
    x = x.wrapping_mul(0x846c_a68b);
    x ^ (x >> 16)
}

/// Two keys that make a tensor's stream: one added before the first round, one xored between the
/// rounds, so that two tensors are not shifted copies of one another.
#[must_use]
pub const fn keys(seed: u32, tensor: u32) -> [u32; 2] {
    let first = mix(seed ^ mix(tensor.wrapping_add(0x9e37_79b9)));
    [first, mix(first ^ 0x85eb_ca6b)]
}

/// The random word of element `index` in the stream of `keys`.
#[must_use]
pub const fn word(keys: [u32; 2], index: u32) -> u32 {
    mix(mix(index.wrapping_add(keys[0])) ^ keys[1])
}

/// The uniform value of a random word: `[-1, 1)`, exact in f32.
#[must_use]
#[allow(clippy::cast_precision_loss)] // 24 bits fit an f32 exactly
pub fn uniform(word: u32) -> f32 {
    (word >> 8) as f32 * (1.0 / 8_388_608.0) - 1.0
}

/// The integer value of a random word: `-2..=5`.
#[must_use]
#[allow(clippy::cast_precision_loss)]
pub fn integer(word: u32) -> f32 {
    (word >> 29) as f32 - 2.0
}

/// Words from one slot of a [`Cycle`] to the next: 128 bytes, the longest line of any cache in use.
pub const SLOT_WORDS: u32 = 32;

/// One cycle through all of `lines` slots: slot `i` leads to `(multiplier i + increment) mod lines`.
///
/// By Hull and Dobell's theorem the walk comes by every slot before it comes back, as long as
/// `lines` has no prime factors but 2 and 3, `multiplier - 1` is divisible by 12 and `increment` by
/// neither 2 nor 3. The distance from one slot to the next differs from step to step, so that no
/// prefetcher can run ahead, and where a walk ends is known without walking.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cycle {
    /// Number of slots, at most 2^24.
    pub lines: u32,
    /// Factor of the step; times a slot it stays below 2^32.
    pub multiplier: u32,
    /// Summand of the step, below `lines`.
    pub increment: u32,
}

impl Cycle {
    /// The cycle that a stream's keys give.
    #[must_use]
    pub const fn drawn(keys: [u32; 2], lines: u32) -> Self {
        // multiplier = 12 (6 t + 1 or 5) + 1 shares with `lines` no more factors than it must, or
        // small cycles would be walked in equal strides; from the upper half of what 32 bits allow,
        // since small factors lead from a slot to a near one.
        let lines = if lines == 0 { 1 } else { lines };
        let multiplier_max = u32::MAX / lines;
        let multiplier_max = if multiplier_max < 0xffff {
            multiplier_max
        } else {
            0xffff
        };
        let t_max = (multiplier_max - 61) / 72;
        let t_min = t_max.div_ceil(2);
        let t = t_min + (keys[0] >> 1) % (t_max - t_min + 1);
        let multiplier = 12 * (6 * t + 1 + 4 * (keys[0] & 1)) + 1;
        let increment = (6 * (keys[1] >> 8) + 1 + 4 * (keys[1] & 1)) % lines;
        Self {
            lines,
            multiplier,
            increment,
        }
    }

    /// The slot that `slot` leads to.
    #[must_use]
    #[inline]
    pub const fn next(self, slot: u32) -> u32 {
        (self.multiplier * slot + self.increment) % self.lines
    }

    /// The slot that a walk of `steps` steps from slot 0 ends on.
    #[must_use]
    #[allow(clippy::cast_possible_truncation)] // reduced modulo a 32-bit number
    pub fn after(self, steps: u64) -> u32 {
        // A step is an affine map; squaring it doubles the steps.
        let lines = u64::from(self.lines);
        let (mut factor, mut summand) = (
            u64::from(self.multiplier) % lines,
            u64::from(self.increment) % lines,
        );
        let (mut slot, mut left) = (0u64, steps);
        while left > 0 {
            if left & 1 == 1 {
                slot = (factor * slot + summand) % lines;
            }
            summand = (factor * summand + summand) % lines;
            factor = factor * factor % lines;
            left >>= 1;
        }
        slot as u32
    }

    /// Word `index` of the tensor: the first word of a slot is the word that the next slot begins
    /// at, the others are zero.
    #[must_use]
    #[inline]
    pub const fn word(self, index: u32) -> u32 {
        if index.is_multiple_of(SLOT_WORDS) {
            self.next(index / SLOT_WORDS) * SLOT_WORDS
        } else {
            0
        }
    }
}

/// All numbers below `count`, each once, in an order that looks drawn: which pages of memory a
/// sequence got, after many have come and gone.
///
/// A [`Cycle`] would do as a table of pages too, but its neighbours lie in equal strides, which
/// memory may like or dislike for reasons that no server would ever meet. So the bits of a place
/// are mixed as [`mix`] mixes all 32, with as many of them as there must be; what falls beyond
/// `count` is mixed again until it does not. Each step can be undone, so no number comes twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Permutation {
    /// How many numbers there are, at least one.
    pub count: u32,
    /// The keys of the tensor's stream.
    pub keys: [u32; 2],
}

impl Permutation {
    /// Most numbers of a permutation: values are handed on as f32, which holds all up to here.
    pub const COUNT_MAX: u32 = 1 << 24;

    /// The number at place `index`, which is below `count`.
    #[must_use]
    #[inline]
    pub const fn at(self, index: u32) -> u32 {
        if self.count <= 1 {
            return 0;
        }
        let mask = u32::MAX >> (self.count - 1).leading_zeros();
        let shift = mask.count_ones().div_ceil(2);
        let mut x = index % self.count;
        loop {
            x = x.wrapping_add(self.keys[0]) & mask;
            x ^= x >> shift;
            x = x.wrapping_mul(0x7feb_352d) & mask;
            x ^= x >> shift;
            x = (x ^ self.keys[1]) & mask;
            x = x.wrapping_mul(0x846c_a68b) & mask;
            x ^= x >> shift;
            if x < self.count {
                return x;
            }
        }
    }
}

/// The values of one input tensor, as every runner has them, for the reference to read.
#[derive(Clone, Debug)]
pub enum Values {
    /// Uniform stream of an element type with a power-of-two scale.
    Uniform([u32; 2], f32, Element),
    /// Integer stream.
    Integer([u32; 2]),
    /// Zeros.
    Zero,
    /// Values read from a file.
    Array(Vec<f32>),
    /// A cycle, whose words are not numbers: an element has the bits of a word.
    Cycle(Cycle),
    /// A permutation, whose numbers are elements as they are.
    Permutation(Permutation),
}

impl Values {
    /// The stream of tensor number `tensor` under `seed`; `None` for [`Data::Files`].
    #[must_use]
    pub fn generated(
        data: &Data,
        seed: u32,
        tensor: u32,
        scale: f32,
        element: Element,
    ) -> Option<Self> {
        match data {
            Data::Uniform => Some(Self::Uniform(keys(seed, tensor), scale, element)),
            Data::Integer => Some(Self::Integer(keys(seed, tensor))),
            Data::Zero => Some(Self::Zero),
            Data::Files(_) => None,
            Data::Cycle(lines) => Some(Self::Cycle(Cycle::drawn(keys(seed, tensor), *lines))),
            Data::Permutation(count) => Some(Self::Permutation(Permutation {
                count: *count,
                keys: keys(seed, tensor),
            })),
        }
    }

    /// Element `index` in row-major order.
    #[must_use]
    #[inline]
    // Tensors have fewer than 2^32 elements, and permutations no number that f32 has not.
    #[allow(clippy::cast_possible_truncation, clippy::cast_precision_loss)]
    pub fn get(&self, index: u64) -> f32 {
        match self {
            Self::Uniform(keys, scale, element) => {
                element.uniform(word(*keys, index as u32)) * scale
            }
            Self::Integer(keys) => integer(word(*keys, index as u32)),
            Self::Zero => 0.0,
            Self::Array(values) => values[index as usize],
            Self::Cycle(cycle) => f32::from_bits(cycle.word(index as u32)),
            Self::Permutation(permutation) => permutation.at(index as u32) as f32,
        }
    }
}

/// One of plus and minus one for column `column` of a random projection (Freivalds' check).
#[must_use]
pub fn sign(keys: [u32; 2], column: u32) -> f64 {
    if word(keys, column) >> 31 == 0 {
        1.0
    } else {
        -1.0
    }
}

/// The tensor number that projections draw their signs from.
pub const PROJECTION_TENSOR: u32 = 0xffff_ffff;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_hash_matches_its_published_test_vectors() {
        let vectors = [
            (0u32, 0u32, 0u32),
            (0, 0, 1),
            (0, 1, 0),
            (1, 0, 0),
            (12345, 2, 4_294_967_295),
        ]
        .map(|(seed, tensor, index)| word(keys(seed, tensor), index));
        assert_eq!(vectors, TEST_VECTORS);
    }

    const TEST_VECTORS: [u32; 5] = [
        0x1ec7_8dc8,
        0xcbb2_acc2,
        0xcbab_f02c,
        0xe7c3_85a6,
        0xc39b_1c84,
    ];

    proptest! {
        #[test]
        fn uniform_values_stay_in_range_and_on_their_grid(w in any::<u32>()) {
            let value = uniform(w);
            prop_assert!((-1.0..1.0).contains(&value));
            prop_assert_eq!((f64::from(value) * 8_388_608.0).fract(), 0.0);
        }

        #[test]
        fn integer_values_stay_in_range(w in any::<u32>()) {
            let value = integer(w);
            prop_assert!((-2.0..=5.0).contains(&value) && value.fract() == 0.0);
        }

        #[test]
        fn every_value_of_a_stream_is_exact_in_its_type(w in any::<u32>()) {
            for element in Element::ALL {
                for value in [element.uniform(w), integer(w)] {
                    prop_assert_eq!(element.nearest(value), value);
                }
            }
        }

        #[test]
        fn what_is_packed_is_read_back_at_its_place(words in prop::collection::vec(any::<u32>(), 1..40)) {
            for element in Element::ALL {
                let values: Vec<f32> = words
                    .iter()
                    .map(|&w| element.uniform(w))
                    // The lowest integer of a type stands for never written.
                    .map(|value| value.max(if element == Element::I4 { -7.0 } else { -127.0 }))
                    .collect();
                let bytes = element.pack(&values);
                let length = element.bytes(values.len() as u64);
                prop_assert_eq!(bytes.len() as u64, length.next_multiple_of(4));
                for (index, value) in values.iter().enumerate() {
                    prop_assert_eq!(element.get(&bytes, index), f64::from(*value));
                }
            }
        }

        #[test]
        fn packing_takes_the_nearest_value(value in -200.0f32..200.0) {
            for element in Element::ALL {
                let read = element.get(&element.pack(&[value]), 0);
                let nearest = f64::from(element.nearest(value));
                let lowest = f64::from(if element == Element::I4 { -8 } else { -128 });
                prop_assert!(read == nearest || nearest == lowest, "{element:?} {value}");
            }
        }

        #[test]
        fn the_mixer_is_a_bijection_so_neighbours_never_collide(x in any::<u32>(), y in any::<u32>()) {
            prop_assert_eq!(x == y, mix(x) == mix(y));
        }
    }

    #[test]
    fn a_cycle_comes_by_every_slot_and_ends_where_it_is_said_to() {
        for lines in [
            1u32,
            2,
            3,
            4,
            6,
            8,
            12,
            16,
            24,
            27,
            96,
            128,
            192,
            1024,
            1536,
            1 << 16,
        ] {
            for seed in 0..20 {
                let cycle = Cycle::drawn(keys(seed, 0), lines);
                let mut seen = vec![false; lines as usize];
                let mut slot = 0;
                for step in 0..lines {
                    assert_eq!(cycle.after(u64::from(step)), slot, "{cycle:?}");
                    assert!(!seen[slot as usize], "{cycle:?} comes back after {step}");
                    seen[slot as usize] = true;
                    slot = cycle.next(slot);
                }
                assert_eq!(slot, 0);
                assert_eq!(cycle.after(u64::from(lines) * 5 + 1), cycle.next(0));
            }
        }
    }

    #[test]
    fn a_permutation_has_every_number_once_and_another_seed_another_order() {
        for count in [1u32, 2, 3, 5, 8, 57, 64, 1000, 1025, 16_384, 70_001] {
            let mut orders = std::collections::HashSet::new();
            for seed in 0..8 {
                let permutation = Permutation {
                    count,
                    keys: keys(seed, 3),
                };
                let order: Vec<u32> = (0..count).map(|index| permutation.at(index)).collect();
                let mut sorted = order.clone();
                sorted.sort_unstable();
                assert!(sorted.into_iter().eq(0..count), "{permutation:?}");
                orders.insert(order);
            }
            assert!(count < 57 || orders.len() == 8, "{count}");
        }
    }

    #[test]
    fn neighbours_in_a_permutation_lie_in_strides_of_all_sorts() {
        for count in [64u32, 2048, 16_384, 20_000] {
            let mut places = 0;
            for seed in 0..16 {
                let permutation = Permutation {
                    count,
                    keys: keys(seed, 3),
                };
                let strides: std::collections::HashSet<u32> = (0..64)
                    .map(|i| (permutation.at((i + 1) % count) + count - permutation.at(i)) % count)
                    .collect();
                assert!(strides.len() > 24, "{permutation:?}: {}", strides.len());
                places += (0..count).filter(|&i| permutation.at(i) == i).count();
            }
            // By chance one number in each order keeps its place.
            assert!(places < 64, "{places} of 16 orders of {count}");
        }
    }

    #[test]
    fn published_permutations_stay_as_they_are() {
        for (count, vector) in PERMUTATION_VECTORS {
            let permutation = Permutation {
                count,
                keys: keys(12345, 3),
            };
            let found = [0, 1, 2, 3, count - 1].map(|index| permutation.at(index));
            assert_eq!(found, vector);
        }
    }

    const PERMUTATION_VECTORS: [(u32, [u32; 5]); 2] = [
        (57, [22, 36, 19, 32, 18]),
        (16_384, [11_528, 6900, 2257, 3560, 9550]),
    ];

    #[test]
    fn short_floats_are_what_their_standards_say() {
        // OFP8 E4M3: largest, one, smallest normal, smallest subnormal, and beyond the range.
        for (value, bits) in [
            (448.0, 0x7e),
            (1.0, 0x38),
            (-1.125, 0xb9),
            (2f32.powi(-6), 0x08),
            (2f32.powi(-9), 0x01),
            (1e9, 0x7e),
            // Ties go to even, into the next binade too.
            (1.0625, 0x38),
            (1.9375, 0x40),
        ] {
            assert_eq!(f8e4m3_bits(value), bits, "{value}");
        }
        for bits in 0..=u8::MAX {
            let value = f8e4m3_value(bits);
            assert!(value.is_nan() == (bits & 0x7f == 0x7f));
            assert!(value.is_nan() || f8e4m3_bits(value) == bits, "{bits:x}");
        }
        assert_eq!(Element::Tf32.nearest(1.0 + 2f32.powi(-11)), 1.0);
        assert_eq!(
            Element::Tf32.nearest(1.0 + 3.0 * 2f32.powi(-11)),
            1.0 + 2f32.powi(-9)
        );
        assert_eq!(Element::Tf32.nearest(2.0 - 2f32.powi(-12)), 2.0);
        assert_eq!(Element::Bf16.nearest(1.0 + 2f32.powi(-8)), 1.0);
    }

    #[test]
    fn an_element_that_nobody_wrote_is_not_a_number_in_every_type() {
        for element in Element::ALL {
            let bytes = element.poison().to_le_bytes();
            for index in 0..32 / element.size_bits() as usize {
                assert!(element.get(&bytes, index).is_nan(), "{element:?}");
            }
            assert!(element.get(&bytes, 8).is_nan(), "beyond the end");
        }
    }

    #[test]
    fn steps_of_a_cycle_fit_32_bits_and_are_not_all_alike() {
        for lines in [256u32, 3 << 10, 1 << 20, 3 << 22, 1 << 24] {
            for seed in 0..50 {
                let cycle = Cycle::drawn(keys(seed, 0), lines);
                let largest =
                    u64::from(cycle.multiplier) * u64::from(lines - 1) + u64::from(cycle.increment);
                assert!(largest <= u64::from(u32::MAX), "{cycle:?}");
                let mut strides = std::collections::HashSet::new();
                let mut slot = 0;
                for _ in 0..64 {
                    let next = cycle.next(slot);
                    strides.insert((next + lines - slot) % lines);
                    slot = next;
                }
                assert!(strides.len() > 16, "{cycle:?}: {} strides", strides.len());
            }
        }
    }

    #[test]
    fn a_published_cycle_stays_as_it_is() {
        let cycle = Cycle::drawn(keys(12345, 0), 3072);
        assert_eq!(
            (cycle.multiplier, cycle.increment, cycle.after(5000)),
            CYCLE_VECTOR
        );
    }

    const CYCLE_VECTOR: (u32, u32, u32) = (49_117, 1735, 2600);

    #[test]
    fn bytes_lie_in_words_from_the_lowest_up() {
        assert_eq!(Element::I8.pack(&[1.0, -2.0, 3.0]), [1, 0xfe, 3, 0]);
        assert_eq!(Element::I4.pack(&[1.0, -2.0, 3.0]), [0xe1, 3, 0, 0]);
        assert_eq!(Element::F16.pack(&[1.0]), [0, 0x3c, 0, 0]);
        assert_eq!(Element::I32.pack(&[-1.0]), [0xff; 4]);
    }

    #[test]
    fn streams_have_the_mean_and_variance_of_a_uniform_distribution() {
        let n = 1u32 << 16;
        for tensor in 0..3 {
            let values = Values::Uniform(keys(7, tensor), 1.0, Element::F32);
            let sum: f64 = (0..n).map(|i| f64::from(values.get(u64::from(i)))).sum();
            let squares: f64 = (0..n)
                .map(|i| f64::from(values.get(u64::from(i))).powi(2))
                .sum();
            let count = f64::from(n);
            // Five standard errors: 1/sqrt(3n) for the mean, sqrt(4/45n) for the mean square.
            assert!((sum / count).abs() < 5.0 / (3.0 * count).sqrt());
            assert!((squares / count - 1.0 / 3.0).abs() < 5.0 * (4.0 / 45.0 / count).sqrt());
        }
    }

    #[test]
    fn two_tensors_are_not_shifted_copies_of_one_another() {
        let first: std::collections::HashSet<u32> =
            (0..4096).map(|i| word(keys(3, 0), i)).collect();
        let shared = (0..4096)
            .filter(|&i| first.contains(&word(keys(3, 1), i)))
            .count();
        assert!(shared < 3, "{shared} of 4096 words in common");
    }
}
