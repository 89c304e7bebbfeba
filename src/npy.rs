//! Tensors in and out as `.npy`, so that anyone can check a result with other software.

use std::fs::File;
use std::io::{BufReader, BufWriter};
use std::path::Path;

use npyz::WriterBuilder;

use crate::error::{Error, Result};

/// Reads a dense row-major tensor of `dims` as f32.
///
/// # Errors
/// A usage error that names the file and what is wrong with it.
pub fn read(path: &Path, dims: &[u64]) -> Result<Vec<f32>> {
    let refuse = |what: String| Error::usage(format!("{}: {what}", path.display()));
    let file = File::open(path).map_err(|error| refuse(error.to_string()))?;
    let array =
        npyz::NpyFile::new(BufReader::new(file)).map_err(|error| refuse(error.to_string()))?;
    if array.shape() != dims {
        return Err(refuse(format!(
            "its shape is {:?}; this case needs {dims:?}",
            array.shape()
        )));
    }
    if array.order() != npyz::Order::C {
        return Err(refuse(
            "it is in column-major order; save it with numpy.ascontiguousarray".to_owned(),
        ));
    }
    let npyz::DType::Plain(kind) = array.dtype() else {
        return Err(refuse(
            "it is a structured array; save a plain one".to_owned(),
        ));
    };
    let broken = |error: std::io::Error| refuse(error.to_string());
    #[allow(clippy::cast_possible_truncation)] // the kernels work in f32
    let values: Vec<f32> = match (kind.type_char(), kind.num_bytes()) {
        (npyz::TypeChar::Float, Some(4)) => array.into_vec::<f32>().map_err(broken)?,
        (npyz::TypeChar::Float, Some(8)) => array
            .into_vec::<f64>()
            .map_err(broken)?
            .into_iter()
            .map(|v| v as f32)
            .collect(),
        _ => {
            return Err(refuse(format!(
                "its element type is {kind}; save it as float32"
            )));
        }
    };
    if let Some(at) = values.iter().position(|v| !v.is_finite()) {
        return Err(refuse(format!(
            "element {at} is {}; inputs must be finite",
            values[at]
        )));
    }
    Ok(values)
}

/// Writes a dense row-major tensor.
///
/// # Errors
/// When the file cannot be written.
pub fn write(path: &Path, dims: &[u64], values: impl Iterator<Item = f32>) -> Result<()> {
    let refuse = |error: std::io::Error| Error::usage(format!("{}: {error}", path.display()));
    let file = BufWriter::new(File::create(path).map_err(refuse)?);
    let mut writer = npyz::WriteOptions::new()
        .default_dtype()
        .shape(dims)
        .writer(file)
        .begin_nd()
        .map_err(refuse)?;
    writer.extend(values).map_err(refuse)?;
    writer.finish().map_err(refuse)
}
