//! The chip catalogue: what datasheets say, with the source and the confidence of every number.
//!
//! The facts are in `chips/`, one file per vendor; a user adds chips and prices, or overrides them,
//! in files of the same form. What is not known is absent.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::de::{self, Deserializer, MapAccess, Visitor};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result, one_line};
use crate::files;
use crate::op::Dtype;
pub use crate::report::Confidence;

mod check;
mod identify;
mod show;

pub use identify::{Identity, identify};
pub use show::{details, find, overview};

/// The files that come with the program, by name.
const FILES: [(&str, &str); 16] = [
    ("chips/amazon.toml", include_str!("../../chips/amazon.toml")),
    ("chips/amd.toml", include_str!("../../chips/amd.toml")),
    ("chips/apple.toml", include_str!("../../chips/apple.toml")),
    ("chips/arm.toml", include_str!("../../chips/arm.toml")),
    (
        "chips/broadcom.toml",
        include_str!("../../chips/broadcom.toml"),
    ),
    (
        "chips/cerebras.toml",
        include_str!("../../chips/cerebras.toml"),
    ),
    ("chips/google.toml", include_str!("../../chips/google.toml")),
    ("chips/groq.toml", include_str!("../../chips/groq.toml")),
    ("chips/huawei.toml", include_str!("../../chips/huawei.toml")),
    ("chips/intel.toml", include_str!("../../chips/intel.toml")),
    ("chips/meta.toml", include_str!("../../chips/meta.toml")),
    (
        "chips/microsoft.toml",
        include_str!("../../chips/microsoft.toml"),
    ),
    ("chips/nvidia.toml", include_str!("../../chips/nvidia.toml")),
    (
        "chips/qualcomm.toml",
        include_str!("../../chips/qualcomm.toml"),
    ),
    (
        "chips/sambanova.toml",
        include_str!("../../chips/sambanova.toml"),
    ),
    (
        "chips/tenstorrent.toml",
        include_str!("../../chips/tenstorrent.toml"),
    ),
];

/// Name of the user's own file in the folder of settings.
const USER_FILE: &str = "chips.toml";

/// A number with where it comes from. In a user's file a bare number will do.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct Figure {
    /// The number, in the unit that the field names.
    pub value: f64,
    /// How far it can be trusted.
    pub confidence: Confidence,
    /// Ids in `chips/sources.toml`, or the name of the user's file.
    pub sources: Vec<String>,
    /// Computed from sourced numbers, as the note says.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub derived: bool,
    /// What should be known beside it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// When it held, as a year, month or day.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub as_of: Option<String>,
}

impl<'de> Deserialize<'de> for Figure {
    /// By hand, because of an enum without tags serde can only say that nothing matched.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Whole {
            value: f64,
            #[serde(default = "user")]
            confidence: Confidence,
            #[serde(default)]
            sources: Vec<String>,
            #[serde(default)]
            derived: bool,
            #[serde(default)]
            note: Option<String>,
            #[serde(default)]
            as_of: Option<String>,
        }
        fn user() -> Confidence {
            Confidence::User
        }
        struct NumberOrTable;

        impl<'de> Visitor<'de> for NumberOrTable {
            type Value = Whole;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number, or a table with value, confidence and sources")
            }

            fn visit_f64<E: de::Error>(self, value: f64) -> std::result::Result<Whole, E> {
                Ok(Whole {
                    value,
                    confidence: Confidence::User,
                    sources: Vec::new(),
                    derived: false,
                    note: None,
                    as_of: None,
                })
            }

            #[allow(clippy::cast_precision_loss)]
            fn visit_i64<E: de::Error>(self, value: i64) -> std::result::Result<Whole, E> {
                self.visit_f64(value as f64)
            }

            #[allow(clippy::cast_precision_loss)]
            fn visit_u64<E: de::Error>(self, value: u64) -> std::result::Result<Whole, E> {
                self.visit_f64(value as f64)
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> std::result::Result<Whole, A::Error> {
                Whole::deserialize(de::value::MapAccessDeserializer::new(map))
            }
        }

        let whole = deserializer.deserialize_any(NumberOrTable)?;
        Ok(Self {
            value: whole.value,
            confidence: whole.confidence,
            sources: whole.sources,
            derived: whole.derived,
            note: whole.note,
            as_of: whole.as_of,
        })
    }
}

/// Element types that datasheets give peaks for.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum PeakDtype {
    /// IEEE double.
    F64,
    /// IEEE single.
    F32,
    /// 8 bits of exponent and 10 of fraction in 32.
    Tf32,
    /// IEEE half.
    F16,
    /// The 16-bit float with the exponent of a single.
    Bf16,
    /// 8-bit floats, of either split.
    F8,
    /// 8-bit integers.
    I8,
    /// 4-bit floats, with a scale for each block.
    F4,
}

impl PeakDtype {
    /// As files and people write it.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::F64 => "f64",
            Self::F32 => "f32",
            Self::Tf32 => "tf32",
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
            Self::F8 => "f8",
            Self::I8 => "i8",
            Self::F4 => "f4",
        }
    }
}

/// Dense peaks by element type, in FLOP/s; of integers op/s. A fused multiply-add counts two.
pub type PeaksByDtype = BTreeMap<PeakDtype, Figure>;

/// The dense peaks of a chip.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Peaks {
    /// What clock the figures assume, in the words of the source.
    #[serde(default)]
    pub clock_basis: String,
    /// That clock.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clock_hz: Option<Figure>,
    /// What should be known beside them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
    /// Element types that the matrix units are known not to have.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub matrix_unsupported: Vec<PeakDtype>,
    /// Element types that the ordinary units are known not to have.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub vector_unsupported: Vec<PeakDtype>,
    /// Of matrix units, sums in 32 bits.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub matrix: PeaksByDtype,
    /// Of the ordinary units.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub vector: PeaksByDtype,
    /// Of matrix units with sums in f16, where that is another rate.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub matrix_f16_accumulate: PeaksByDtype,
}

/// Memory of a chip.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Memory {
    /// What kind it is.
    #[serde(default, rename = "type")]
    pub kind: String,
    /// Its size.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<Figure>,
    /// Bytes per second, as printed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bandwidth_bytes_per_s: Option<Figure>,
}

/// The PCI ids of a chip.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Pci {
    /// The vendor, as `0x10de`.
    pub vendor_id: String,
    /// The devices, as `0x2330`.
    #[serde(default)]
    pub device_ids: Vec<String>,
    /// Those of them that other products have too, so that the name must decide.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub shared_ids: Vec<String>,
    /// How far they can be trusted.
    pub confidence: Confidence,
    /// Where they come from.
    #[serde(default)]
    pub sources: Vec<String>,
    /// What should be known beside them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

/// The link to other chips.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Interconnect {
    /// Its name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Bytes per second; the note says whether both directions are counted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bandwidth_bytes_per_s: Option<Figure>,
}

/// How a price is paid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Pricing {
    /// By the hour, at any time.
    OnDemand,
    /// By the hour, and may be taken away.
    Spot,
    /// For a term.
    Reserved,
    /// What the user pays.
    Own,
}

impl Pricing {
    /// As people read it.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::OnDemand => "on demand",
            Self::Spot => "spot",
            Self::Reserved => "reserved",
            Self::Own => "own",
        }
    }
}

/// What an hour of a chip costs somewhere.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Price {
    /// Who sells it.
    pub provider: String,
    /// What is sold.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<String>,
    /// Where.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    /// How it is paid.
    #[serde(default = "own")]
    pub pricing: Pricing,
    /// Chips in what is sold.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chips_per_instance: Option<u32>,
    /// Dollars for an hour of what is sold.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usd_per_hour_instance: Option<Figure>,
    /// Dollars for an hour of one chip: host, memory and network included.
    pub usd_per_hour_chip: Figure,
    /// When it held, as a year, month or day; absent where nobody knows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub as_of: Option<String>,
    /// What should be known beside it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

fn own() -> Pricing {
    Pricing::Own
}

impl Price {
    /// Who sells it, how and when, in one line: `AWS p5.48xlarge us-east-1, on demand, 2026-07-20`.
    #[must_use]
    pub fn origin(&self) -> String {
        let mut place = self.provider.clone();
        for part in [&self.instance, &self.region].into_iter().flatten() {
            place.push(' ');
            place.push_str(part);
        }
        let date = self.as_of.as_deref().unwrap_or("undated");
        match self.pricing {
            Pricing::Own => format!("{place}, {date}"),
            pricing => format!("{place}, {}, {date}", pricing.word()),
        }
    }
}

/// One chip: as a runtime sees a card, except where `devices_per_chip` says that it sees more.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Chip {
    /// Its name in options, reports and folders: lower-case words joined by hyphens.
    pub id: String,
    /// Who makes it.
    #[serde(default)]
    pub vendor: String,
    /// What people call it.
    #[serde(default)]
    pub name: String,
    /// Product family.
    #[serde(default)]
    pub family: String,
    /// Architecture.
    #[serde(default)]
    pub architecture: String,
    /// How it is made.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub process: String,
    /// First sold.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub launch_year: Option<Figure>,
    /// Names by which drivers and runtimes report it and nothing else.
    #[serde(default)]
    pub aliases: Vec<String>,
    /// Names that other chips report too.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub shared_aliases: Vec<String>,
    /// How far the names can be trusted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub aliases_confidence: Option<Confidence>,
    /// What should be known of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alias_note: Option<String>,
    /// Versions of the chip that neither name nor id tells apart.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant_note: Option<String>,
    /// PCI ids, where there are such.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pci: Option<Pci>,
    /// Devices that a runtime sees on one chip, where that is more than one: each has that share of
    /// the peaks, the memory and the price.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub devices_per_chip: Option<Figure>,
    /// Programming interfaces that reach it.
    #[serde(default)]
    pub reachable_by: Vec<String>,
    /// Whether wgpu can reach it.
    #[serde(default)]
    pub has_wgpu_path: bool,
    /// Power of the board or module as its maker states it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub power_w: Option<Figure>,
    /// What others guess, where the maker states nothing.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub power_estimates_w: Vec<Figure>,
    /// What one costs to buy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub list_price_usd: Option<Figure>,
    /// What should be known beside all this.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
    /// Memory.
    #[serde(default)]
    pub memory: Memory,
    /// On-chip memories, in bytes, by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub caches: BTreeMap<String, Figure>,
    /// Dense peaks.
    #[serde(default)]
    pub peaks: Peaks,
    /// The link to other chips.
    #[serde(default)]
    pub interconnect: Interconnect,
    /// What an hour of it costs.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub prices: Vec<Price>,
}

/// A datasheet peak that work is measured against.
#[derive(Clone, Debug, PartialEq)]
pub struct Peak<'a> {
    /// `matrix f16`, `vector f32`, `matrix f16 summed in f16`, `memory bandwidth`.
    pub name: String,
    /// Of one device, in operations or bytes per second.
    pub value: f64,
    /// What the datasheet says of the whole chip.
    pub figure: &'a Figure,
}

impl Chip {
    /// How many devices a runtime sees on one chip.
    #[must_use]
    pub fn device_count(&self) -> f64 {
        self.devices_per_chip.as_ref().map_or(1.0, |f| f.value)
    }

    /// Bytes of memory of one device.
    #[must_use]
    pub fn device_memory_bytes(&self) -> Option<f64> {
        Some(self.memory.bytes.as_ref()?.value / self.device_count())
    }

    /// The arithmetic peak of one device for an element type, by the units that do the work (`alu`
    /// or `matrix`); by the faster ones where nobody knows which. Ordinary units may widen f16.
    #[must_use]
    pub fn peak(&self, engine: Option<&str>, dtype: Dtype) -> Option<Peak<'_>> {
        let peaks = &self.peaks;
        let (own, f16_sums) = match dtype {
            Dtype::F32 | Dtype::W4A32 => (PeakDtype::F32, false),
            Dtype::Tf32 => (PeakDtype::Tf32, false),
            Dtype::F16 | Dtype::W4A16 => (PeakDtype::F16, false),
            Dtype::F16F16 => (PeakDtype::F16, true),
            Dtype::Bf16 => (PeakDtype::Bf16, false),
            Dtype::F8E4M3 => (PeakDtype::F8, false),
            Dtype::I8 => (PeakDtype::I8, false),
            Dtype::I32 => return None,
        };
        let matrix = || {
            let apart = f16_sums.then(|| peaks.matrix_f16_accumulate.get(&own));
            match apart.flatten() {
                Some(figure) => Some((format!("matrix {} summed in f16", own.word()), figure)),
                None => Some((format!("matrix {}", own.word()), peaks.matrix.get(&own)?)),
            }
        };
        let vector = || {
            let mut dtypes = vec![own];
            if matches!(own, PeakDtype::F16 | PeakDtype::Bf16) {
                dtypes.push(PeakDtype::F32);
            }
            let figures = dtypes.into_iter().filter_map(|dtype| {
                Some((
                    format!("vector {}", dtype.word()),
                    peaks.vector.get(&dtype)?,
                ))
            });
            figures.max_by(|a, b| a.1.value.total_cmp(&b.1.value))
        };
        let printed: Vec<_> = match engine {
            Some("matrix") => matrix().into_iter().collect(),
            Some("alu") => vector().into_iter().collect(),
            _ => matrix().into_iter().chain(vector()).collect(),
        };
        // f16 holds every byte, so where units for bytes are the slower ones those for f16 serve. That
        // a datasheet has no rate for bytes at all does not mean that there is none.
        let bytes_as_f16 = own == PeakDtype::I8 && engine != Some("alu") && !printed.is_empty();
        let as_f16 = (peaks.matrix.get(&PeakDtype::F16)).filter(|_| bytes_as_f16);
        let as_f16 = as_f16.map(|figure| ("matrix f16".to_owned(), figure));
        let (name, figure) =
            (printed.into_iter().chain(as_f16)).max_by(|a, b| a.1.value.total_cmp(&b.1.value))?;
        Some(Peak {
            name,
            value: figure.value / self.device_count(),
            figure,
        })
    }

    /// The memory bandwidth of one device.
    #[must_use]
    pub fn bandwidth(&self) -> Option<Peak<'_>> {
        let figure = self.memory.bandwidth_bytes_per_s.as_ref()?;
        Some(Peak {
            name: "memory bandwidth".to_owned(),
            value: figure.value / self.device_count(),
            figure,
        })
    }

    /// What an hour of one device costs: the user's own price, else the lowest dated one on demand,
    /// else the lowest dated one of another kind; of `provider` only, where one is named.
    #[must_use]
    pub fn price(&self, provider: Option<&str>) -> Option<&Price> {
        let wanted = |price: &&Price| {
            provider.is_none_or(|name| price.provider.eq_ignore_ascii_case(name))
                && (price.pricing == Pricing::Own || price.as_of.is_some())
        };
        let rank = |pricing: Pricing| match pricing {
            Pricing::Own => 0,
            Pricing::OnDemand => 1,
            Pricing::Reserved | Pricing::Spot => 2,
        };
        self.prices.iter().filter(wanted).min_by(|a, b| {
            let by_value = a
                .usd_per_hour_chip
                .value
                .total_cmp(&b.usd_per_hour_chip.value);
            rank(a.pricing).cmp(&rank(b.pricing)).then(by_value)
        })
    }
}

/// Where a number comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Source {
    /// What it is called.
    pub title: String,
    /// Where it can be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub r#where: Option<String>,
    /// When it was written or read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub date: Option<String>,
    /// Whether the maker of the chip published it.
    #[serde(default)]
    pub vendor: bool,
}

/// A file of chips.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ChipFile {
    /// The vendor of all chips in it that name none.
    #[serde(default)]
    pub vendor: String,
    /// The chips. In a user's file one whose id is known changes what it gives and leaves the rest.
    pub chips: Vec<Chip>,
}

/// All chips that are known.
#[derive(Clone, Debug, Default)]
pub struct Chips {
    chips: Vec<Chip>,
    sources: BTreeMap<String, Source>,
}

impl Chips {
    /// The chips that come with the program.
    ///
    /// # Errors
    /// Never but by a mistake of ours, which a test would show.
    pub fn built_in() -> Result<Self> {
        let text = include_str!("../../chips/sources.toml");
        let sources = toml::from_str(text)
            .map_err(|error| Error::internal(format!("chips/sources.toml: {error}")))?;
        let mut chips = Self {
            chips: Vec::new(),
            sources,
        };
        for (name, text) in FILES {
            chips.add(name, text, false)?;
        }
        Ok(chips)
    }

    /// The chips that come with the program, those of the user's settings, and those of `file`, the
    /// later ones over the earlier.
    ///
    /// # Errors
    /// A usage error that names the file, the chip and the field.
    pub fn load(file: Option<&Path>) -> Result<Self> {
        let mut chips = Self::built_in()?;
        let own = files::settings().map(|folder| folder.join(USER_FILE));
        let own = own.filter(|path| path.exists());
        for path in own.as_deref().into_iter().chain(file) {
            let name = path.display().to_string();
            let text =
                files::read_text(path).map_err(|error| Error::usage(format!("{name}: {error}")))?;
            chips.add(&name, &text, true)?;
        }
        Ok(chips)
    }

    /// Where [`Chips::load`] looks for the user's own file.
    #[must_use]
    pub fn user_file() -> Option<PathBuf> {
        files::settings().map(|folder| folder.join(USER_FILE))
    }

    /// Adds the chips of one file, checked.
    fn add(&mut self, name: &str, text: &str, by_user: bool) -> Result<()> {
        let refuse = |what: String| Error::usage(format!("{name}: {what}"));
        let table: toml::Table =
            toml::from_str(text).map_err(|error| refuse(one_line(&error.to_string())))?;
        check::no_sparse(&table).map_err(refuse)?;
        // Parsed as a whole first, since its errors name the line.
        let file: ChipFile =
            toml::from_str(text).map_err(|error| refuse(one_line(&error.to_string())))?;
        let tables = table
            .get("chips")
            .and_then(toml::Value::as_array)
            .cloned()
            .unwrap_or_default();
        for (mut chip, table) in file.chips.into_iter().zip(tables) {
            if chip.vendor.is_empty() {
                chip.vendor.clone_from(&file.vendor);
            }
            let known = self.chips.iter().position(|known| known.id == chip.id);
            if let (Some(place), false) = (known, by_user) {
                return Err(refuse(format!(
                    "chip {:?} is there twice",
                    self.chips[place].id
                )));
            }
            if by_user {
                mark(&mut chip, name);
            }
            let Some(place) = known else {
                check::chip(&chip, None).map_err(refuse)?;
                self.chips.push(chip);
                continue;
            };
            let base = self.chips[place].clone();
            let merged = overridden(&base, &chip, &table)
                .map_err(|error| refuse(format!("chip {:?}: {error}", base.id)))?;
            check::chip(&merged, Some(&base)).map_err(refuse)?;
            self.chips[place] = merged;
        }
        check::together(&self.chips, &self.sources).map_err(refuse)
    }

    /// Every chip, by vendor.
    #[must_use]
    pub fn all(&self) -> &[Chip] {
        &self.chips
    }

    /// The chip of an id.
    #[must_use]
    pub fn get(&self, id: &str) -> Option<&Chip> {
        self.chips.iter().find(|chip| chip.id == id)
    }

    /// The chip of an id that the user gave.
    ///
    /// # Errors
    /// A usage error that names what is like it.
    pub fn wanted(&self, id: &str) -> Result<&Chip> {
        self.get(id).ok_or_else(|| {
            let words: Vec<&str> = id.split('-').filter(|word| word.len() > 1).collect();
            let like = |chip: &Chip| words.iter().filter(|word| chip.id.contains(**word)).count();
            let best = self.chips.iter().map(like).max().unwrap_or(0);
            let near: Vec<&str> = self
                .chips
                .iter()
                .filter(|chip| best > 0 && like(chip) == best)
                .map(|chip| &*chip.id)
                .take(5)
                .collect();
            let remedy = if near.is_empty() {
                "`chipmark chips` lists those that are".to_owned()
            } else {
                format!("like it are {}", near.join(", "))
            };
            Error::usage(format!("no chip {id:?} is known; {remedy}"))
        })
    }

    /// What a source id stands for.
    #[must_use]
    pub fn source(&self, id: &str) -> Option<&Source> {
        self.sources.get(id)
    }

    /// Sets what the user pays for an hour of a chip, over all other prices.
    ///
    /// # Errors
    /// As [`Chips::wanted`].
    pub fn set_price(&mut self, id: &str, usd_per_hour: f64, as_of: &str) -> Result<()> {
        self.wanted(id)?;
        let price = Price {
            provider: "--price".to_owned(),
            instance: None,
            region: None,
            pricing: Pricing::Own,
            chips_per_instance: None,
            usd_per_hour_instance: None,
            usd_per_hour_chip: given(usd_per_hour),
            as_of: Some(as_of.to_owned()),
            note: None,
        };
        for chip in self.chips.iter_mut().filter(|chip| chip.id == id) {
            chip.prices.retain(|price| price.pricing != Pricing::Own);
            chip.prices.insert(0, price.clone());
        }
        Ok(())
    }
}

/// A number of the user's.
fn given(value: f64) -> Figure {
    Figure {
        value,
        confidence: Confidence::User,
        sources: vec!["the command line".to_owned()],
        derived: false,
        note: None,
        as_of: None,
    }
}

/// Names the user's file as the source of every number that names none.
fn mark(chip: &mut Chip, file: &str) {
    let own = |figure: &mut Figure| {
        if figure.sources.is_empty() {
            figure.sources.push(file.to_owned());
        }
    };
    let peaks = &mut chip.peaks;
    [
        &mut chip.launch_year,
        &mut chip.devices_per_chip,
        &mut chip.power_w,
        &mut chip.list_price_usd,
        &mut chip.memory.bytes,
        &mut chip.memory.bandwidth_bytes_per_s,
        &mut peaks.clock_hz,
        &mut chip.interconnect.bandwidth_bytes_per_s,
    ]
    .into_iter()
    .flatten()
    .for_each(own);
    chip.power_estimates_w.iter_mut().for_each(own);
    chip.caches.values_mut().for_each(own);
    for table in [
        &mut peaks.matrix,
        &mut peaks.vector,
        &mut peaks.matrix_f16_accumulate,
    ] {
        table.values_mut().for_each(own);
    }
    for price in &mut chip.prices {
        own(&mut price.usd_per_hour_chip);
        price.usd_per_hour_instance.iter_mut().for_each(own);
    }
    if let Some(pci) = chip.pci.as_mut().filter(|pci| pci.sources.is_empty()) {
        pci.sources.push(file.to_owned());
    }
}

/// `base` with what `table`, the text of `chip`, gives. Tables go into tables; a number, with its
/// source, a list of names and a list of prices take the place of what was there.
fn overridden(base: &Chip, chip: &Chip, table: &toml::Value) -> std::result::Result<Chip, String> {
    let as_value = |chip: &Chip| toml::Value::try_from(chip).map_err(|error| error.to_string());
    let mut merged = as_value(base)?;
    // The keys as the user wrote them, the values as read, with their source.
    merge(&mut merged, &as_value(chip)?, table);
    merged.try_into().map_err(|error| error.to_string())
}

fn merge(base: &mut toml::Value, new: &toml::Value, written: &toml::Value) {
    let (toml::Value::Table(into), toml::Value::Table(new), toml::Value::Table(written)) =
        (&mut *base, new, written)
    else {
        *base = new.clone();
        return;
    };
    for (key, text) in written {
        let Some(value) = new.get(key) else { continue };
        match into.get_mut(key) {
            Some(old) if text.is_table() && text.get("value").is_none() && key != "pci" => {
                merge(old, value, text);
            }
            _ => {
                into.insert(key.clone(), value.clone());
            }
        }
    }
}

#[cfg(test)]
mod tests;
