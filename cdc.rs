// SPDX-License-Identifier: GPL-2.0

//! The part of the USB communications device class (CDC) that a data source needs.
//!
//! Source of the constants: "USB Class Definitions for Communications Devices" 1.2 and its PSTN
//! subclass (PSTN120), as in
//! [`include/uapi/linux/usb/cdc.h`](srctree/include/uapi/linux/usb/cdc.h).
//!
//! This file is pure: the host-side tests compile it unchanged.

/// Class of the communications interface.
pub(crate) const CLASS_COMM: u8 = 0x02;

/// Subclass of the communications interface of a serial line (abstract control model).
pub(crate) const SUBCLASS_ACM: u8 = 0x02;

/// Class of the data interface.
pub(crate) const CLASS_DATA: u8 = 0x0a;

/// Request type: to the interface, of its class, from the host (`bmRequestType`).
pub(crate) const TO_INTERFACE: u8 = 0x21;

/// Request: sets DTR (bit 0) and RTS (bit 1).
pub(crate) const SET_CONTROL_LINE_STATE: u8 = 0x22;

/// DTR and RTS raised.
pub(crate) const DTR_RTS: u16 = 0x03;

/// Type of a class-specific descriptor of an interface.
const CS_INTERFACE: u8 = 0x24;

/// Subtype of the descriptor that names the interfaces which belong together.
const UNION: u8 = 0x06;

/// The data interface that a communications interface names in its union descriptor.
///
/// `extra` holds the descriptors behind the interface's own, as they came from the device: nothing
/// in them is taken for granted. `None` where there is no such descriptor in them.
pub(crate) fn data_interface(extra: &[u8]) -> Option<u8> {
    let mut rest = extra;
    loop {
        let length = usize::from(*rest.first()?);
        // A length below 2 is none, and would keep the loop where it is.
        let descriptor = rest
            .get(..length)
            .filter(|descriptor| descriptor.len() >= 2)?;
        if let [_, CS_INTERFACE, UNION, _control, data, ..] = descriptor {
            return Some(*data);
        }
        rest = rest.get(length..)?;
    }
}
