// SPDX-License-Identifier: GPL-2.0

//! What the host and the guest's agent say to each other, over one virtio port.
//!
//! A frame is a kind (one byte), the length of its body in bytes (four bytes, little endian) and the body.

use serde::{
    Deserialize,
    Serialize, //
};
use std::io::{
    self,
    Read,
    Write, //
};

/// Name of the virtio port that the frames go over.
pub const PORT: &str = "alrandom.agent";

/// Longest body that is accepted, in bytes: far more than anybody sends, so a longer one is garbage.
const MAX_BODY: u32 = 1 << 20;

/// Size of a terminal, in characters.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Serialize)]
pub struct Size {
    /// Lines.
    pub rows: u16,
    /// Columns.
    pub columns: u16,
}

/// A program to run in the guest.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct Job {
    /// The program and its arguments.
    pub argv: Vec<String>,
    /// Environment variables, beyond the agent's few.
    pub env: Vec<(String, String)>,
    /// The terminal's size, if the program gets a terminal; otherwise it gets pipes.
    pub terminal: Option<Size>,
}

/// One message.
#[derive(Clone, Debug, PartialEq)]
pub enum Frame {
    /// Guest: what the boot is busy with now, in words.
    Stage(String),
    /// Guest: booted, a job may come.
    Ready,
    /// Guest: output of the job.
    Stdout(Vec<u8>),
    /// Guest: error output of the job. A job with a terminal has none.
    Stderr(Vec<u8>),
    /// Guest: the job ended with this exit status; 128 + n if signal n ended it.
    Exit(u8),
    /// Host: run this.
    Run(Job),
    /// Host: input for the job.
    Stdin(Vec<u8>),
    /// Host: the job's input ends here.
    StdinEnd,
    /// Host: the terminal has changed its size.
    Resize(Size),
    /// Host: have the kernel log what the key `letter` of the magic SysRq key stands for.
    Sysrq(u8),
}

impl Frame {
    /// Kind and body as they travel.
    fn parts(&self) -> (u8, Vec<u8>) {
        match self {
            Frame::Stage(text) => (b'g', text.clone().into_bytes()),
            Frame::Ready => (b'r', Vec::new()),
            Frame::Stdout(bytes) => (b'o', bytes.clone()),
            Frame::Stderr(bytes) => (b'e', bytes.clone()),
            Frame::Exit(status) => (b'x', vec![*status]),
            Frame::Run(job) => (b'R', serde_json::to_vec(job).unwrap_or_default()),
            Frame::Stdin(bytes) => (b'I', bytes.clone()),
            Frame::StdinEnd => (b'E', Vec::new()),
            Frame::Resize(size) => (b'S', serde_json::to_vec(size).unwrap_or_default()),
            Frame::Sysrq(letter) => (b'Q', vec![*letter]),
        }
    }

    /// The frame of a kind and a body, or `None` if there is no such frame.
    fn from_parts(kind: u8, body: Vec<u8>) -> Option<Frame> {
        Some(match (kind, body.as_slice()) {
            (b'g', _) => Frame::Stage(String::from_utf8_lossy(&body).into_owned()),
            (b'r', []) => Frame::Ready,
            (b'o', _) => Frame::Stdout(body),
            (b'e', _) => Frame::Stderr(body),
            (b'x', [status]) => Frame::Exit(*status),
            (b'R', json) => Frame::Run(serde_json::from_slice(json).ok()?),
            (b'I', _) => Frame::Stdin(body),
            (b'E', []) => Frame::StdinEnd,
            (b'S', json) => Frame::Resize(serde_json::from_slice(json).ok()?),
            (b'Q', [letter]) => Frame::Sysrq(*letter),
            _ => return None,
        })
    }

    /// Writes the frame in one piece, so that frames of several threads do not mix.
    ///
    /// # Errors
    ///
    /// Those of `to`.
    pub fn write(&self, to: &mut impl Write) -> io::Result<()> {
        let (kind, body) = self.parts();
        let length = u32::try_from(body.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
        let mut bytes = Vec::with_capacity(5 + body.len());
        bytes.push(kind);
        bytes.extend_from_slice(&length.to_le_bytes());
        bytes.extend_from_slice(&body);
        to.write_all(&bytes)?;
        to.flush()
    }

    /// Reads the next frame; `None` where the other side has closed in good order.
    ///
    /// # Errors
    ///
    /// Those of `from`; `UnexpectedEof` in the middle of a frame; `InvalidData` if it is none.
    pub fn read(from: &mut impl Read) -> io::Result<Option<Frame>> {
        let mut kind = [0];
        loop {
            match from.read(&mut kind) {
                Ok(0) => return Ok(None),
                Ok(_) => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => (),
                Err(error) => return Err(error),
            }
        }
        let mut length = [0; 4];
        from.read_exact(&mut length)?;
        let length = u32::from_le_bytes(length);
        if length > MAX_BODY {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let mut body = vec![0; length as usize];
        from.read_exact(&mut body)?;
        match Frame::from_parts(kind[0], body) {
            Some(frame) => Ok(Some(frame)),
            None => Err(io::ErrorKind::InvalidData.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_frame_arrives_as_it_was_sent() {
        let job = Job {
            argv: vec!["sh".into(), "-c".into(), "echo \"ü\"".into()],
            env: vec![("TERM".into(), "xterm".into())],
            terminal: Some(Size {
                rows: 25,
                columns: 80,
            }),
        };
        let frames = [
            Frame::Stage("loading".into()),
            Frame::Ready,
            Frame::Stdout(vec![0, 255, 10]),
            Frame::Stderr(Vec::new()),
            Frame::Exit(137),
            Frame::Run(job),
            Frame::Stdin(vec![3]),
            Frame::StdinEnd,
            Frame::Resize(Size {
                rows: 1,
                columns: 500,
            }),
            Frame::Sysrq(b'w'),
        ];
        let mut wire = Vec::new();
        for frame in &frames {
            frame.write(&mut wire).unwrap();
        }
        let mut wire = wire.as_slice();
        for frame in &frames {
            assert_eq!(Frame::read(&mut wire).unwrap().as_ref(), Some(frame));
        }
        assert_eq!(Frame::read(&mut wire).unwrap(), None);
    }

    #[test]
    fn a_cut_frame_is_an_error_and_not_an_end() {
        let mut wire = Vec::new();
        Frame::Stdout(vec![1, 2, 3]).write(&mut wire).unwrap();
        for cut in 1..wire.len() {
            let error = Frame::read(&mut &wire[..cut]).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof, "cut at {cut}");
        }
    }

    #[test]
    fn garbage_is_refused() {
        // An unknown kind, an exit status of two bytes, and a length no frame has.
        for wire in [
            &b"?\0\0\0\0"[..],
            &b"x\x02\0\0\0ab"[..],
            &b"o\xff\xff\xff\xff"[..],
        ] {
            let error = Frame::read(&mut &wire[..]).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{wire:?}");
        }
    }
}
