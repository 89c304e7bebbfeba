//! chipmark measures GPUs and AI accelerators: verified kernels, honest timing, one normalised
//! report per chip.
//!
//! Data goes one way: the catalogue's kernels and a suite make a plan; a runner executes each case
//! while the conductor verifies, tunes and measures; results are normalised into a report.
//! `ARCHITECTURE.md` has the map.

pub mod audit;
pub mod awake;
pub mod cache;
pub mod calibrate;
pub mod case;
pub mod catalogue;
pub mod chips;
pub mod cli;
pub mod compare;
pub mod conformance;
pub mod consistency;
pub mod cost;
pub mod dashboard;
pub mod datasheet;
pub mod diagnose;
pub mod display;
pub mod driver_statistics;
pub mod energy;
pub mod error;
pub mod estimate;
pub mod export;
pub mod files;
pub mod gate;
pub mod goals;
pub mod gpu;
pub mod hal;
pub mod hierarchy;
pub mod history;
pub mod import;
pub mod index;
pub mod input;
pub mod inspect;
pub mod interleave;
pub mod interrupt;
pub mod journal;
pub mod machine;
pub mod measure;
pub mod merge;
pub mod model;
pub mod normalise;
pub mod npy;
pub mod op;
pub mod plan;
pub mod portability;
pub mod protocol;
pub mod publish;
pub mod registers;
pub mod replay;
pub mod report;
pub mod run;
pub mod runner;
pub mod schemas;
pub mod screen;
pub mod serve;
pub mod settle;
pub mod shader;
pub mod signature;
pub mod spirv;
pub mod stats;
pub mod store;
pub mod telemetry;
pub mod tune;
pub mod unroll;
pub mod variant;
pub mod verify;
pub mod what_if;
