// SPDX-License-Identifier: GPL-2.0
//! Where the data bytes of the answers come from.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rand_chacha::rand_core::{RngCore, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

/// Data bytes in an answer; the status byte comes behind them.
pub const BLOCK_LENGTH: usize = 16000;

/// Bytes in a whole answer.
pub const ANSWER_LENGTH: usize = BLOCK_LENGTH + 1;

/// The data bytes of one answer.
pub type Block = [u8; BLOCK_LENGTH];

/// Blocks of one command that are made before they are asked for.
const AHEAD: usize = 4;

/// The commands that the device knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Command {
    /// `x`: entropy bytes of both noise sources, combined and de-biased.
    #[serde(rename = "x")]
    Entropy,
    /// `1`: raw bytes of noise source one.
    #[serde(rename = "1")]
    NoiseOne,
    /// `2`: raw bytes of noise source two.
    #[serde(rename = "2")]
    NoiseTwo,
    /// `n`: raw bytes of both noise sources.
    #[serde(rename = "n")]
    Noise,
}

impl Command {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Entropy, Self::NoiseOne, Self::NoiseTwo, Self::Noise];

    /// The byte that the host sends.
    pub const fn byte(self) -> u8 {
        match self {
            Self::Entropy => b'x',
            Self::NoiseOne => b'1',
            Self::NoiseTwo => b'2',
            Self::Noise => b'n',
        }
    }

    /// The command for a byte from the host.
    pub fn from_byte(byte: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|command| command.byte() == byte)
    }
}

/// The data of answer `k` (from 0) to `command` from a unit whose source is seeded with `seed`.
///
/// ChaCha with 8 rounds; the key is the seed, little endian, followed by 24 zero bytes; the 64-bit
/// nonce is `k` with the command's byte in its highest eight bits; the block counter starts at 0.
pub fn block(seed: u64, command: Command, k: u64) -> Block {
    filled(seed, command.byte(), k)
}

/// The bytes that a unit seeded with `seed` holds for an earlier owner at plug, when it is
/// configured with `leftover`. A unit with another source takes 0 for the seed.
pub fn leftover(seed: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    generator(seed, b'l', 0).fill_bytes(&mut bytes);
    bytes
}

/// The bytes that the fault `extra` puts behind the status byte of answer `k`; seed as for
/// [`leftover`].
pub fn extra(seed: u64, command: Command, k: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    generator(seed, command.byte() | 0x80, k).fill_bytes(&mut bytes);
    bytes
}

/// The generator of one of the streams that belong to a seed.
pub(crate) fn generator(seed: u64, purpose: u8, k: u64) -> ChaCha8Rng {
    let mut key = [0; 32];
    key[..8].copy_from_slice(&seed.to_le_bytes());
    let mut generator = ChaCha8Rng::from_seed(key);
    generator.set_stream((u64::from(purpose) << 56) | k);
    generator
}

/// A block from the generator of one stream.
fn filled(seed: u64, purpose: u8, k: u64) -> Block {
    let mut block = [0; BLOCK_LENGTH];
    generator(seed, purpose, k).fill_bytes(&mut block);
    block
}

/// What kind of source a unit has; the control protocol's `source`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum SourceSpec {
    /// The operating system's random number generator.
    #[default]
    Os,
    /// The stream of [`block`].
    Seeded {
        /// The seed.
        seed: u64,
    },
    /// A file, over and over: answer `k` to each command has the 16000 bytes from offset
    /// 16000 `k` modulo the file's length.
    File {
        /// The file. It is opened when the source is configured.
        path: PathBuf,
    },
}

/// A source at work.
#[derive(Debug)]
pub struct Source {
    /// What it was made of.
    spec: SourceSpec,
    /// The open file of a file source and its length in bytes.
    file: Option<(File, u64)>,
    /// Blocks made ahead, oldest first. All are of one command and have consecutive indices.
    ahead: VecDeque<(Command, u64, Box<Block>)>,
    /// The block that would be made ahead next.
    want: Option<(Command, u64)>,
}

impl Source {
    /// Opens the source.
    ///
    /// # Errors
    ///
    /// One line that says why a file cannot serve.
    pub fn new(spec: SourceSpec) -> Result<Self, String> {
        let file = match &spec {
            SourceSpec::File { path } => Some(open(path)?),
            _ => None,
        };
        Ok(Self {
            spec,
            file,
            ahead: VecDeque::new(),
            want: None,
        })
    }

    /// What it was made of.
    pub fn spec(&self) -> &SourceSpec {
        &self.spec
    }

    /// The seed; 0 for a source that has none.
    pub fn seed(&self) -> u64 {
        match self.spec {
            SourceSpec::Seeded { seed } => seed,
            _ => 0,
        }
    }

    /// Whether block `k` can be made a second time.
    pub fn is_repeatable(&self) -> bool {
        self.spec != SourceSpec::Os
    }

    /// Takes block `k` of a command: one that was made ahead, if it is there.
    ///
    /// # Errors
    ///
    /// The operating system's, for the random source and for files.
    pub fn take(&mut self, command: Command, k: u64) -> io::Result<Box<Block>> {
        let ready = match self.ahead.front() {
            Some(&(c, i, _)) if (c, i) == (command, k) => {
                self.ahead.pop_front().map(|(_, _, block)| block)
            }
            _ => {
                self.ahead.clear();
                None
            }
        };
        let next = self.ahead.back().map_or(k + 1, |&(_, last, _)| last + 1);
        self.want = Some((command, next));
        ready.map_or_else(|| self.make(command, k), Ok)
    }

    /// Whether [`Self::prepare`] has something to do.
    pub fn wants_to_prepare(&self) -> bool {
        self.want.is_some() && self.ahead.len() < AHEAD
    }

    /// Makes one block ahead of its time. A failure shows when the block is asked for.
    pub fn prepare(&mut self) {
        let Some((command, k)) = self.want.filter(|_| self.ahead.len() < AHEAD) else {
            return;
        };
        match self.make(command, k) {
            Ok(block) => {
                self.ahead.push_back((command, k, block));
                self.want = Some((command, k + 1));
            }
            Err(_) => self.want = None,
        }
    }

    /// Makes block `k` of a command.
    ///
    /// # Errors
    ///
    /// The operating system's.
    pub fn make(&self, command: Command, k: u64) -> io::Result<Box<Block>> {
        let mut block = Box::new([0; BLOCK_LENGTH]);
        match (&self.spec, &self.file) {
            (SourceSpec::Seeded { seed }, _) => {
                generator(*seed, command.byte(), k).fill_bytes(&mut block[..]);
            }
            (_, Some((file, length))) => {
                read_round(file, *length, k * BLOCK_LENGTH as u64, &mut block[..])?;
            }
            (_, None) => getrandom::fill(&mut block[..]).map_err(io::Error::other)?,
        }
        Ok(block)
    }
}

/// Opens a file to read from, and says how long it is.
///
/// # Errors
///
/// One line that names the file.
pub(crate) fn open(path: &Path) -> Result<(File, u64), String> {
    let error = |e: io::Error| format!("cannot read {}: {e}", path.display());
    let file = File::open(path).map_err(error)?;
    let meta = file.metadata().map_err(error)?;
    if !meta.is_file() {
        return Err(format!("cannot read {}: not a file", path.display()));
    }
    if meta.len() == 0 {
        return Err(format!("cannot read {}: it is empty", path.display()));
    }
    Ok((file, meta.len()))
}

/// Fills `bytes` from `offset` on, beginning again at the file's start when it ends.
///
/// # Errors
///
/// The operating system's, and `UnexpectedEof` for a file that has become shorter.
pub(crate) fn read_round(
    file: &File,
    length: u64,
    offset: u64,
    mut bytes: &mut [u8],
) -> io::Result<()> {
    let mut at = offset % length;
    while !bytes.is_empty() {
        let count = bytes
            .len()
            .min(usize::try_from(length - at).unwrap_or(usize::MAX));
        let (now, later) = bytes.split_at_mut(count);
        file.read_exact_at(now, at)?;
        bytes = later;
        at = 0;
    }
    Ok(())
}
