//! Language models as shapes: which cases a prefill and a decode step consist of, and what they keep
//! in memory.

use std::path::Path;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result, one_line};
use crate::files;
use crate::op::{Case, Dtype, OpName, Shape};

/// The models that come with the program, by the name that options take.
const MODELS: [(&str, &str); 4] = [
    ("llama-3.2-1b", include_str!("../models/llama-3.2-1b.toml")),
    ("llama-3-8b", include_str!("../models/llama-3-8b.toml")),
    ("llama-3-70b", include_str!("../models/llama-3-70b.toml")),
    ("mixtral-8x7b", include_str!("../models/mixtral-8x7b.toml")),
];

/// No model has more of anything than this; what is larger is a slip of the pen.
const SIZE_MAX: u64 = 10_000_000;

/// Feed-forward networks of which each token takes some.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Experts {
    /// How many there are in a layer.
    pub count: u64,
    /// How many a token goes through.
    pub active: u64,
}

/// A decoder-only transformer with grouped-query attention.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Model {
    /// What people call it.
    pub name: String,
    /// Where its sizes were read.
    #[serde(default)]
    pub source: String,
    /// Layers.
    pub layers: u64,
    /// Width of the residual stream.
    pub hidden: u64,
    /// Query heads.
    pub heads: u64,
    /// Heads of keys and values.
    pub kv_heads: u64,
    /// Width of a head.
    pub head_dim: u64,
    /// Width of the feed-forward network, of one expert where there are several.
    pub feed_forward: u64,
    /// Whether the network has a gate beside its way up, as SwiGLU has.
    #[serde(default = "yes")]
    pub gated: bool,
    /// Words of the vocabulary.
    pub vocabulary: u64,
    /// Whether the head's weights are the embedding's.
    #[serde(default)]
    pub tied_embedding: bool,
    /// Experts, where there are such.
    #[serde(default)]
    pub experts: Option<Experts>,
}

fn yes() -> bool {
    true
}

/// What a chip is asked to do with a model.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Phase {
    /// One prompt of so many tokens at once.
    Prefill {
        /// Its tokens.
        tokens: u64,
    },
    /// One more token for each of so many sequences.
    Decode {
        /// Sequences.
        batch: u64,
        /// Tokens that each of them already has.
        context: u64,
    },
}

impl Phase {
    /// Tokens that come of it.
    #[must_use]
    pub fn token_count(self) -> u64 {
        match self {
            Self::Prefill { tokens } => tokens,
            Self::Decode { batch, .. } => batch,
        }
    }

    /// Tokens whose keys and values are kept while it runs.
    #[must_use]
    pub fn kept_tokens(self) -> u64 {
        match self {
            Self::Prefill { tokens } => tokens,
            Self::Decode { batch, context } => batch * context,
        }
    }

    /// As people read it.
    #[must_use]
    pub fn words(self) -> String {
        match self {
            Self::Prefill { tokens } => format!("prefill {tokens}"),
            Self::Decode { batch, context } => format!("decode {batch} at {context}"),
        }
    }
}

/// A case with its place in a model.
#[derive(Clone, Debug, PartialEq)]
pub struct Part {
    /// What it is there: `qkv`, `attention`, `out`, `gate_up`, `down`, `head`.
    pub name: &'static str,
    /// The case.
    pub case: Case,
    /// How often it runs.
    pub count: u64,
}

/// What a projection leaves out, for it is no matmul and no attention.
pub const LEFT_OUT: &str = "norms, rotary embedding, activation, residual additions, writing of keys and values, embedding, router, sampling, and what a framework adds between kernels";

impl Model {
    /// A model by name, or from a `.toml` file.
    ///
    /// # Errors
    /// A usage error that names the model or the file, the field and the remedy.
    pub fn load(name: &str) -> Result<Self> {
        if let Some((_, text)) = MODELS.iter().find(|(known, _)| *known == name) {
            return Self::parse(name, text);
        }
        if Path::new(name).extension().is_none_or(|end| end != "toml") {
            return Err(Error::usage(format!(
                "--model {name}: there is no such model; name one of {} or a .toml file",
                model_names().join(", ")
            )));
        }
        let text = files::read_text(name)
            .map_err(|error| Error::usage(format!("--model {name}: {error}")))?;
        Self::parse(name, &text)
    }

    fn parse(file: &str, text: &str) -> Result<Self> {
        let refuse = |what: String| Error::usage(format!("--model {file}: {what}"));
        let model: Self =
            toml::from_str(text).map_err(|error| refuse(one_line(&error.to_string())))?;
        let experts = model.experts.unwrap_or(Experts {
            count: 1,
            active: 1,
        });
        for (field, size) in [
            ("layers", model.layers),
            ("hidden", model.hidden),
            ("heads", model.heads),
            ("kv_heads", model.kv_heads),
            ("head_dim", model.head_dim),
            ("feed_forward", model.feed_forward),
            ("vocabulary", model.vocabulary),
            ("experts.count", experts.count),
            ("experts.active", experts.active),
        ] {
            if size == 0 || size > SIZE_MAX {
                return Err(refuse(format!(
                    "{field} is {size}; it must be from 1 to {SIZE_MAX}"
                )));
            }
        }
        if !model.heads.is_multiple_of(model.kv_heads) {
            return Err(refuse(format!(
                "heads is {} and kv_heads {}; the first must be a multiple of the second",
                model.heads, model.kv_heads
            )));
        }
        if experts.active > experts.count {
            return Err(refuse(format!(
                "experts.active is {}, more than experts.count, {}",
                experts.active, experts.count
            )));
        }
        Ok(model)
    }

    /// Weights that are multiplied with, of one layer, without its experts' share that a token does
    /// not take: all of them.
    fn layer_weights(&self) -> u64 {
        let heads = (self.heads + 2 * self.kv_heads) * self.head_dim;
        let projections = self.hidden * heads + self.heads * self.head_dim * self.hidden;
        let experts = self.experts.map_or(1, |experts| experts.count);
        projections + experts * (self.up_width() + self.feed_forward) * self.hidden
    }

    /// Width of what goes up, gate included.
    fn up_width(&self) -> u64 {
        if self.gated {
            2 * self.feed_forward
        } else {
            self.feed_forward
        }
    }

    /// All its parameters: projections, norms, router, embedding and head.
    #[must_use]
    pub fn parameter_count(&self) -> u64 {
        let router = self
            .experts
            .map_or(0, |experts| experts.count * self.hidden);
        let layer = self.layer_weights() + router + 2 * self.hidden;
        self.layers * layer + self.embedding_count() + self.hidden
    }

    /// Parameters of embedding and head.
    fn embedding_count(&self) -> u64 {
        let tables = if self.tied_embedding { 1 } else { 2 };
        tables * self.vocabulary * self.hidden
    }

    /// Bytes of all weights, those of the projections in the element type of the matmuls: 18 bytes
    /// for 32 of 4 bits, scale included. Norms, router, embedding and head have two bytes each, four
    /// where the model is in f32 or tf32.
    #[must_use]
    pub fn weight_bytes(&self, dtype: Dtype) -> u64 {
        let projections = self.layers * self.layer_weights();
        let rest = self.parameter_count() - projections;
        let bytes = match dtype {
            Dtype::W4A16 | Dtype::W4A32 => projections / 32 * 18,
            Dtype::F32 | Dtype::Tf32 => projections * 4,
            Dtype::F8E4M3 => projections,
            _ => projections * 2,
        };
        bytes + rest * element_bytes(dtype)
    }

    /// Bytes of keys and values that one token leaves.
    #[must_use]
    pub fn kv_bytes_per_token(&self, dtype: Dtype) -> u64 {
        self.layers * 2 * self.kv_heads * self.head_dim * element_bytes(dtype)
    }

    /// The cases of a phase, with how often each runs. Tokens are spread evenly over experts, which is
    /// the best that a router can do; the head sees one token of each sequence.
    ///
    /// # Errors
    /// A usage error where a size is beyond what a case may have.
    pub fn parts(&self, phase: Phase, dtype: Dtype) -> Result<Vec<Part>> {
        let (rows, sequences) = match phase {
            Phase::Prefill { tokens } => (tokens, 1),
            Phase::Decode { batch, .. } => (batch, batch),
        };
        let act = beside(dtype);
        let product = |m: u64, n: u64, k: u64, batch: u64, dtype: Dtype| {
            let mut sizes = vec![("m", m), ("n", n), ("k", k), ("trans_b", 1)];
            if batch > 1 {
                sizes.push(("batch", batch));
            }
            Case::new(OpName::Matmul, &Shape::of(&sizes), dtype)
        };
        let heads = [
            ("heads", self.heads),
            ("kv_heads", self.kv_heads),
            ("head_dim", self.head_dim),
        ];
        let attention = match phase {
            Phase::Prefill { tokens } => {
                vec![("query_len", tokens), ("kv_len", tokens), ("causal", 1)]
            }
            Phase::Decode { batch, context } => {
                vec![("batch", batch), ("query_len", 1), ("kv_len", context)]
            }
        };
        let attention: Vec<(&str, u64)> = heads.into_iter().chain(attention).collect();
        let (experts, expert_rows) = self.experts.map_or((1, rows), |experts| {
            let visits = rows * experts.active;
            let busy = visits.min(experts.count);
            (busy, visits.div_ceil(busy))
        });
        let width = self.heads * self.head_dim;
        let narrow = 2 * self.kv_heads * self.head_dim;
        let part = |name, case: Result<Case>, count| {
            Ok(Part {
                name,
                case: case?,
                count,
            })
        };
        let layers = self.layers;
        [
            part(
                "qkv",
                product(rows, width + narrow, self.hidden, 1, dtype),
                layers,
            ),
            part(
                "attention",
                Case::new(OpName::Attention, &Shape::of(&attention), act),
                layers,
            ),
            part("out", product(rows, self.hidden, width, 1, dtype), layers),
            part(
                "gate_up",
                product(expert_rows, self.up_width(), self.hidden, experts, dtype),
                layers,
            ),
            part(
                "down",
                product(expert_rows, self.hidden, self.feed_forward, experts, dtype),
                layers,
            ),
            part(
                "head",
                product(sequences, self.vocabulary, self.hidden, 1, act),
                1,
            ),
        ]
        .into_iter()
        .collect()
    }
}

/// The element type of attention and head where the projections are multiplied in `dtype`: 4-bit
/// weights, 8-bit floats and sums in f16 are for projections alone, and what is tf32 there is f32
/// elsewhere.
fn beside(dtype: Dtype) -> Dtype {
    match dtype {
        Dtype::W4A16 | Dtype::F8E4M3 | Dtype::F16F16 => Dtype::F16,
        Dtype::W4A32 | Dtype::Tf32 => Dtype::F32,
        other => other,
    }
}

/// Bytes of an element of keys, values, norms and embedding.
fn element_bytes(dtype: Dtype) -> u64 {
    if dtype == Dtype::F32 || dtype == Dtype::Tf32 {
        4
    } else {
        2
    }
}

/// The names of the models.
#[must_use]
pub fn model_names() -> Vec<&'static str> {
    MODELS.iter().map(|(name, _)| *name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan;

    #[test]
    fn every_dtype_that_a_model_is_served_in_has_all_its_cases() {
        let model = Model::load("llama-3-8b").unwrap();
        for dtype in Dtype::ALL {
            if matches!(dtype, Dtype::I8 | Dtype::I32) {
                continue;
            }
            for phase in [
                Phase::Prefill { tokens: 512 },
                Phase::Decode {
                    batch: 8,
                    context: 4096,
                },
            ] {
                assert_eq!(model.parts(phase, dtype).unwrap().len(), 6, "{dtype}");
            }
        }
    }

    #[test]
    fn parameters_are_as_published() {
        // Counted from the checkpoints: 1.236, 8.030, 70.554 and 46.703 thousand millions.
        for (name, count) in [
            ("llama-3.2-1b", 1_235_814_400),
            ("llama-3-8b", 8_030_261_248),
            ("llama-3-70b", 70_553_706_496),
            ("mixtral-8x7b", 46_702_792_704),
        ] {
            assert_eq!(
                Model::load(name).unwrap().parameter_count(),
                count,
                "{name}"
            );
        }
    }

    #[test]
    fn weights_and_keys_take_what_they_take() {
        let model = Model::load("llama-3-8b").unwrap();
        assert_eq!(model.weight_bytes(Dtype::F16), 2 * 8_030_261_248);
        // 32 layers, keys and values, 8 heads of 128, two bytes.
        assert_eq!(model.kv_bytes_per_token(Dtype::F16), 131_072);
        // Projections of one byte, the rest of two.
        let rest = 2 * 128_256 * 4096 + 65 * 4096;
        let f8 = model.weight_bytes(Dtype::F8E4M3);
        assert_eq!(f8, 8_030_261_248 - rest + 2 * rest);
        assert_eq!(model.weight_bytes(Dtype::Tf32), 4 * 8_030_261_248);
        let w4 = model.weight_bytes(Dtype::W4A16);
        let projections: u64 = 32 * (4096 * 6144 + 4096 * 4096 + 3 * 14336 * 4096);
        assert_eq!(
            w4,
            projections * 18 / 32 + 2 * (8_030_261_248 - projections)
        );
    }

    #[test]
    fn the_suite_llm_holds_every_case_of_its_models() {
        let suite = plan::plan("llm", None).unwrap();
        let has = |case: &Case| suite.cases.iter().any(|other| other.id() == case.id());
        for name in ["llama-3-8b", "llama-3-70b", "mixtral-8x7b"] {
            let model = Model::load(name).unwrap();
            let prefills = [512, 2048].map(|tokens| Phase::Prefill { tokens });
            let decodes = [1, 8, 64].map(|batch| Phase::Decode {
                batch,
                context: 4096,
            });
            let phases = || prefills.iter().chain(&decodes);
            let w4 = phases().map(|phase| (*phase, Dtype::W4A16));
            let f16 = phases().map(|phase| (*phase, Dtype::F16));
            for (phase, dtype) in f16.chain(w4.filter(|_| model.experts.is_none())) {
                for part in model.parts(phase, dtype).unwrap() {
                    assert!(
                        has(&part.case),
                        "{name} {}: {}",
                        phase.words(),
                        part.case.id()
                    );
                }
            }
        }
    }

    #[test]
    fn experts_share_the_tokens() {
        let model = Model::load("mixtral-8x7b").unwrap();
        let up = |phase: Phase| {
            let parts = model.parts(phase, Dtype::F16).unwrap();
            let part = parts
                .into_iter()
                .find(|part| part.name == "gate_up")
                .unwrap();
            (part.case.shape.get("batch"), part.case.shape.get("m"))
        };
        assert_eq!(
            up(Phase::Decode {
                batch: 1,
                context: 4096
            }),
            (2, 1)
        );
        assert_eq!(
            up(Phase::Decode {
                batch: 8,
                context: 4096
            }),
            (8, 2)
        );
        assert_eq!(
            up(Phase::Decode {
                batch: 64,
                context: 4096
            }),
            (8, 16)
        );
        assert_eq!(up(Phase::Prefill { tokens: 512 }), (8, 128));
    }

    #[test]
    fn a_model_that_cannot_be_is_refused_with_its_field() {
        let good = include_str!("../models/llama-3-8b.toml");
        for (from, to, part) in [
            ("hidden = 4096", "hidden = 0", "hidden is 0"),
            (
                "layers = 32",
                "layers = 99999999999",
                "layers is 99999999999",
            ),
            ("layers = 32", "layers = -1", "layers"),
            ("kv_heads = 8", "kv_heads = 5", "kv_heads 5"),
            ("kv_heads = 8", "", "kv_heads"),
            (
                "vocabulary = 128256",
                "vocabulary = 128256\nexperts = { count = 2, active = 3 }",
                "experts.active is 3",
            ),
            ("hidden = 4096", "hidden = 4096\ncolour = 1", "colour"),
        ] {
            let text = good.replacen(from, to, 1);
            let error = Model::parse("mine.toml", &text).unwrap_err().message;
            assert!(
                error.contains(part) && error.contains("mine.toml"),
                "{error}"
            );
            assert!(!error.contains('\n'));
        }
        assert!(
            Model::load("gpt-9")
                .unwrap_err()
                .message
                .contains("llama-3-8b")
        );
    }
}
