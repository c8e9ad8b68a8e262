// SPDX-License-Identifier: GPL-2.0

//! Class-specific descriptors as any device can send them: the driver's search for the union
//! against a slow model of its own.

use arbitrary::{Arbitrary, Unstructured};

use crate::cdc::data_interface;

/// Most bytes of descriptors in a case: as many as a configuration can have is 65535, and what can
/// go wrong in them goes wrong in a few.
const MAX_LENGTH: usize = 4_096;

/// A piece of what a device sends as descriptors.
#[derive(Arbitrary, Clone, Debug)]
pub enum Piece {
    /// A descriptor whose length is right: type, subtype and the bytes behind these.
    Whole(Kind, Subtype, Vec<u8>),
    /// A descriptor whose length is this, whatever it has.
    Lie(u8, Kind, Subtype, Vec<u8>),
    /// A union: control interface, data interface, more data interfaces.
    Union(u8, u8, Vec<u8>),
    /// The first so many bytes of a union.
    Beginning(u8),
    /// Anything.
    Bytes(Vec<u8>),
}

/// `bDescriptorType`.
#[derive(Arbitrary, Clone, Copy, Debug)]
pub enum Kind {
    /// Class-specific, of an interface.
    Interface,
    /// Class-specific, of an endpoint.
    Endpoint,
    /// Any.
    Other(u8),
}

/// `bDescriptorSubtype`.
#[derive(Arbitrary, Clone, Copy, Debug)]
pub enum Subtype {
    /// Header.
    Header,
    /// Union.
    Union,
    /// Any.
    Other(u8),
}

impl Kind {
    /// The number (CDC 1.2, table 12).
    fn number(self) -> u8 {
        match self {
            Self::Interface => 0x24,
            Self::Endpoint => 0x25,
            Self::Other(number) => number,
        }
    }
}

impl Subtype {
    /// The number (CDC 1.2, table 13).
    fn number(self) -> u8 {
        match self {
            Self::Header => 0,
            Self::Union => 6,
            Self::Other(number) => number,
        }
    }
}

impl Piece {
    /// Writes it behind what is there.
    fn write(&self, out: &mut Vec<u8>) {
        let (length, kind, subtype, rest) = match self {
            Self::Whole(kind, subtype, rest) => {
                let rest = rest.get(..252).unwrap_or(rest);
                (rest.len() as u8 + 3, kind.number(), subtype.number(), rest)
            }
            Self::Lie(length, kind, subtype, rest) => {
                (*length, kind.number(), subtype.number(), &rest[..])
            }
            Self::Union(control, data, more) => {
                let more = more.get(..250).unwrap_or(more);
                out.extend([more.len() as u8 + 5, 0x24, 6, *control, *data]);
                return out.extend(more);
            }
            Self::Beginning(count) => {
                return out.extend(&[5, 0x24, 6, 0, 1][..usize::from(count % 5)]);
            }
            Self::Bytes(bytes) => return out.extend(bytes),
        };
        out.extend([length, kind, subtype]);
        out.extend(rest);
    }
}

/// What the driver has to find in `extra`: the descriptors are told apart first, all of them, and
/// looked at then.
///
/// `bLength` is the first byte of each and counts itself (USB 2.0, 9.5); where it is less than the
/// two bytes that every descriptor has, or more than there is, no descriptor begins.
fn model(extra: &[u8]) -> Option<u8> {
    let mut starts = vec![0];
    while let Some(&last) = starts.last() {
        let length = extra.get(last).map_or(0, |length| usize::from(*length));
        if length < 2 || last + length > extra.len() {
            starts.pop();
            break;
        }
        starts.push(last + length);
    }
    starts
        .into_iter()
        // Union functional descriptor (CDC 1.2, table 16): at least the five bytes up to the first
        // subordinate interface, which is at 4.
        .filter(|at| extra[*at] >= 5 && extra[at + 1] == 0x24 && extra[at + 2] == 0x06)
        .map(|at| extra[at + 4])
        .next()
}

/// Compares what the driver finds in `extra` with what the model finds, also in each beginning of
/// it and behind other descriptors.
///
/// Returns what was found.
///
/// # Panics
///
/// If they differ.
pub fn compare(extra: &[u8]) -> Option<u8> {
    let found = data_interface(extra);
    assert_eq!(found, model(extra), "{extra:02x?}");
    // What is cut off may be missing; it is never something else.
    for cut in 0..extra.len().min(64) {
        let less = data_interface(&extra[..cut]);
        assert!(less.is_none() || less == found, "{cut} of {extra:02x?}");
    }
    // Whatever is behind an end, and whatever descriptor of another kind is before a beginning,
    // makes no difference.
    let longer = [&[5, 0x24, 0, 0x10, 1, 2, 0x24][..], extra].concat();
    assert_eq!(data_interface(&longer), found, "{longer:02x?}");
    if found.is_some() {
        let longer = [extra, &[5, 0x24, 6, 0xaa, 0xbb]].concat();
        assert_eq!(data_interface(&longer), found, "{longer:02x?}");
    }
    found
}

/// Compares on the descriptors that `data` encode: the fuzz target.
///
/// Returns what was found.
///
/// # Panics
///
/// If driver and model differ.
pub fn fuzz(data: &[u8]) -> Option<u8> {
    // The first byte: as they are, or made of pieces.
    let (mode, rest) = data.split_first()?;
    if mode % 2 == 0 {
        return compare(rest.get(..MAX_LENGTH).unwrap_or(rest));
    }
    let mut extra = Vec::new();
    let mut rest = Unstructured::new(rest);
    while !rest.is_empty() {
        let Ok(piece) = rest.arbitrary::<Piece>() else {
            break;
        };
        piece.write(&mut extra);
    }
    extra.truncate(MAX_LENGTH);
    compare(&extra)
}
