// SPDX-License-Identifier: GPL-2.0

//! The emulator's end of usbredir: whatever comes from the other end, it is understood or refused.

use alpharng_emu::usbredir::{Capabilities, Codec, Packet, MAX_PACKET_LENGTH};

/// Takes `data` for what the other end sends, as it is or made into packets: the fuzz target.
/// Returns how many packets there are.
///
/// # Panics
///
/// If something is read that would not be written, or two halves give something else than the
/// whole.
pub fn fuzz(data: &[u8]) -> usize {
    let Some((&[common, mode], rest)) = data.split_first_chunk() else {
        return 0;
    };
    let common = Capabilities(common.into());
    let codec = Codec::new(common);
    if mode % 2 == 0 {
        return read_all(codec, rest);
    }
    let mut bytes = Vec::new();
    let mut rest = rest;
    while let Some((&[kind, more, id], behind)) = rest.split_first_chunk() {
        // HELLO to what was added last, and the packets with data.
        let kind = u32::from(kind % 64);
        let kind = if kind < 32 { kind } else { 68 + kind };
        let wide = kind != 0 && common.has(Capabilities::IDS_64BITS);
        let header = |length: u32| {
            let mut header = [kind.to_le_bytes(), length.to_le_bytes()].concat();
            header.extend([id, 0, 0, 0]);
            header.resize(if wide { 16 } else { 12 }, 0);
            header
        };
        // The least length that such a packet has, if there is one, and mostly no more.
        let least = (0..512).find(|length| codec.decode(&header(*length)).is_ok());
        let length = least.unwrap_or(0) + u32::from(more.saturating_sub(128));
        bytes.extend(header(length));
        let end = behind.len().min(length as usize);
        bytes.extend(&behind[..end]);
        bytes.extend(std::iter::repeat_n(0, length as usize - end));
        rest = &behind[end..];
    }
    read_all(codec, &bytes)
}

/// Reads packets until there is none or one is refused; returns how many there are.
fn read_all(codec: Codec, mut rest: &[u8]) -> usize {
    let mut packets = 0;
    while let Ok(Some((message, length))) = codec.decode(rest) {
        assert!((12..=rest.len()).contains(&length), "{length}");
        assert!(length <= MAX_PACKET_LENGTH + 16);
        // Nothing is told before all of it is there.
        for cut in [0, 7, length / 2, length - 1] {
            assert_eq!(codec.decode(&rest[..cut]), Ok(None), "{cut} bytes");
        }
        let mut bytes = Vec::new();
        codec.encode(&message, &mut bytes);
        let again = codec.decode(&bytes);
        if matches!(message.packet, Packet::Hello { .. }) {
            // Its text need not be one, in which case another is read.
            assert!(matches!(again, Ok(Some(_))), "{again:?}");
        } else {
            assert_eq!(again, Ok(Some((message, bytes.len()))));
        }
        packets += 1;
        rest = &rest[length..];
    }
    packets
}
