//! Which chip a device is: by PCI id first, then by the names that drivers print.

use super::{Chip, Chips};
use crate::protocol::Device;

/// What is known of which chip a device is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Identity {
    /// It is this one.
    Known {
        /// Its id.
        chip_id: String,
        /// By what it was told: `pci id 10de:2330`, `name`, `--chip`.
        by: String,
        /// Versions that cannot be told apart from here.
        note: Option<String>,
    },
    /// It may be one of these, or something else of the same name or id.
    Ambiguous {
        /// Their ids.
        candidates: Vec<String>,
        /// Why nobody can tell.
        reason: String,
    },
    /// Nothing in the catalogue is like it.
    Unknown,
}

impl Identity {
    /// The chip, where it is known.
    #[must_use]
    pub fn chip_id(&self) -> Option<&str> {
        match self {
            Self::Known { chip_id, .. } => Some(chip_id),
            _ => None,
        }
    }

    /// One line for people.
    #[must_use]
    pub fn line(&self) -> String {
        match self {
            Self::Known { chip_id, by, note } => {
                let note = note.as_ref().map_or_else(String::new, |n| format!("; {n}"));
                format!("{chip_id} (by {by}{note})")
            }
            Self::Ambiguous { candidates, reason } => format!(
                "cannot be told: {reason}; --chip ID decides ({})",
                candidates.join(", ")
            ),
            Self::Unknown => {
                "not in the catalogue; --chip ID names one, --chips FILE adds one".to_owned()
            }
        }
    }
}

/// A name as it is compared: without case, trade marks, driver suffixes and wrappers.
pub fn canonical(name: &str) -> String {
    let mut text = name.to_lowercase();
    for mark in ["(tm)", "(r)", "™", "®"] {
        text = text.replace(mark, " ");
    }
    // GL drivers append the bus and the instruction set of the host.
    if let Some((front, _)) = text.split_once("/pcie") {
        text = front.to_owned();
    }
    let mut words: Vec<&str> = text.split_whitespace().collect();
    while let Some(first) = words.first() {
        // Drivers that put themselves before the name.
        if ["mesa", "turnip"].contains(first) {
            words.remove(0);
        } else {
            break;
        }
    }
    words.join(" ")
}

/// The forms of a reported name that an alias may equal: the whole, what a wrapper holds, and what
/// is left without the driver in brackets at the end.
fn forms(name: &str) -> Vec<String> {
    let mut forms = vec![canonical(name)];
    let whole = forms[0].clone();
    let inside = |prefix: &str| {
        whole
            .strip_prefix(prefix)
            .and_then(|rest| rest.strip_suffix(')'))
            .map(str::to_owned)
    };
    if let Some(inner) = inside("microsoft direct3d12 (") {
        forms.push(canonical(&inner));
    }
    // ANGLE (vendor, device, driver); the device may carry its PCI id in brackets.
    if let Some(inner) = inside("angle (") {
        forms.extend(inner.split(", ").nth(1).map(canonical));
    }
    for form in forms.clone() {
        if let Some((front, _)) = form.split_once(" (") {
            forms.push(front.to_owned());
        }
    }
    forms.dedup();
    forms
}

/// Tells which chip a device is, and never guesses.
#[must_use]
pub fn identify(device: &Device, chips: &Chips) -> Identity {
    // The processor behind a software adapter is no chip that this catalogue has.
    let id = device.pci_id.as_deref().and_then(|id| {
        let (vendor, device) = id.split_once(':')?;
        Some((format!("0x{vendor}"), format!("0x{device}")))
    });
    let forms = forms(&device.name);
    let named = |list: &[String]| list.iter().any(|alias| forms.contains(&canonical(alias)));
    let by_name: Vec<&Chip> = chips.all().iter().filter(|c| named(&c.aliases)).collect();
    let maybe: Vec<&Chip> = chips
        .all()
        .iter()
        .filter(|chip| named(&chip.shared_aliases))
        .collect();
    let known = |chip: &Chip, by: String| Identity::Known {
        chip_id: chip.id.clone(),
        by,
        note: chip.variant_note.clone(),
    };
    let ids = |chips: &[&Chip]| chips.iter().map(|chip| chip.id.clone()).collect();
    if let Some((vendor, number)) = &id {
        let pci = device.pci_id.as_deref().unwrap_or_default();
        let has = |chip: &&Chip| {
            chip.pci.as_ref().is_some_and(|of| {
                of.vendor_id.eq_ignore_ascii_case(vendor)
                    && of
                        .device_ids
                        .iter()
                        .any(|id| id.eq_ignore_ascii_case(number))
            })
        };
        let by_id: Vec<&Chip> = chips.all().iter().filter(has).collect();
        let shared = by_id.len() > 1
            || by_id.iter().any(|chip| {
                chip.pci
                    .as_ref()
                    .is_some_and(|of| of.shared_ids.contains(number))
            });
        match (&by_id[..], &by_name[..]) {
            // Nothing has this id: a name alone counts where its chip has no ids to compare.
            ([], []) => {}
            ([], [named, ..]) => {
                let listed = named
                    .pci
                    .as_ref()
                    .is_some_and(|of| !of.device_ids.is_empty());
                if listed {
                    return Identity::Ambiguous {
                        candidates: ids(&by_name),
                        reason: format!(
                            "its name is that of {}, but its PCI id {pci} is not",
                            named.id
                        ),
                    };
                }
            }
            ([one], names) if !shared => {
                return match names.iter().find(|chip| chip.id != one.id) {
                    None => known(one, format!("PCI id {pci}")),
                    Some(other) => Identity::Ambiguous {
                        candidates: vec![one.id.clone(), other.id.clone()],
                        reason: format!(
                            "its PCI id {pci} is that of {}, its name that of {}",
                            one.id, other.id
                        ),
                    },
                };
            }
            (several, names) => {
                let both: Vec<&&Chip> = names
                    .iter()
                    .filter(|chip| several.iter().any(|other| other.id == chip.id))
                    .collect();
                return match both[..] {
                    [one] => known(one, format!("name and PCI id {pci}")),
                    _ => Identity::Ambiguous {
                        candidates: ids(several),
                        reason: format!(
                            "several products have the PCI id {pci}, and the name {:?} does not say which it is",
                            device.name
                        ),
                    },
                };
            }
        }
    }
    match (&by_name[..], &maybe[..]) {
        ([one], _) => known(one, "name".to_owned()),
        ([], []) => Identity::Unknown,
        ([], several) | (several, _) => Identity::Ambiguous {
            candidates: ids(several),
            reason: format!("several products report the name {:?}", device.name),
        },
    }
}
