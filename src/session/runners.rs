//! The runners that this program carries, by architecture.

use std::borrow::Cow;
use std::io::Write;
use std::path::Path;

use crate::system::Algorithm;
use crate::system::digest::of_bytes;

/// One runner.
#[derive(Clone, Debug)]
pub struct Runner {
    /// Architecture as `uname -m` says it.
    pub arch: &'static str,
    /// sha256 of the program.
    pub sha256: Cow<'static, str>,
    /// The program.
    pub program: Cow<'static, [u8]>,
    /// The same, compressed.
    pub gzip: Cow<'static, [u8]>,
}

/// What the build embedded.
static EMBEDDED: &[Embedded] = include!(concat!(env!("OUT_DIR"), "/runners.rs"));

struct Embedded {
    arch: &'static str,
    sha256: &'static str,
    program: &'static [u8],
    gzip: &'static [u8],
}

/// All runners at hand.
#[derive(Clone, Debug)]
pub struct Runners(Vec<Runner>);

impl Runners {
    /// Those that the build embedded; the file that `SETPOINT_RUNNER` names instead, if it does.
    ///
    /// # Errors
    /// The file can't be read, or is no program.
    pub fn find() -> std::io::Result<Runners> {
        match std::env::var_os("SETPOINT_RUNNER") {
            Some(path) if !path.is_empty() => Runners::from_file(Path::new(&path)),
            _ => Ok(Runners::embedded()),
        }
    }

    /// Those that the build embedded.
    pub fn embedded() -> Runners {
        let runner = |runner: &Embedded| Runner {
            arch: runner.arch,
            sha256: Cow::Borrowed(runner.sha256),
            program: Cow::Borrowed(runner.program),
            gzip: Cow::Borrowed(runner.gzip),
        };
        Runners(EMBEDDED.iter().map(runner).collect())
    }

    /// One from a file.
    ///
    /// # Errors
    /// The file can't be read, or is no program.
    pub fn from_file(path: &Path) -> std::io::Result<Runners> {
        let in_file = |error: std::io::Error| {
            std::io::Error::new(error.kind(), format!("the runner {}: {error}", path.display()))
        };
        let bytes = std::fs::read(path).map_err(in_file)?;
        let arch = match bytes.get(18..20) {
            Some([0x3e, 0]) => "x86_64",
            Some([0xb7, 0]) => "aarch64",
            Some([0x28, 0]) => "armv7l",
            Some([0xf3, 0]) => "riscv64",
            _ => return Err(in_file(std::io::Error::other("it is no program for a machine that is known"))),
        };
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        encoder.write_all(&bytes)?;
        let runner = Runner {
            arch,
            sha256: of_bytes(Algorithm::Sha256, &bytes).into(),
            program: bytes.into(),
            gzip: encoder.finish()?.into(),
        };
        Ok(Runners(vec![runner]))
    }

    /// These.
    pub fn of(runners: Vec<Runner>) -> Runners {
        Runners(runners)
    }

    /// Whether there is none at all.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// All of them.
    pub fn all(&self) -> &[Runner] {
        &self.0
    }

    /// The one for an architecture, under any of its names.
    pub fn for_arch(&self, arch: &str) -> Option<&Runner> {
        let arch = match arch {
            "amd64" => "x86_64",
            "arm64" => "aarch64",
            "armv8l" | "armv7" => "armv7l",
            other => other,
        };
        self.0.iter().find(|runner| runner.arch == arch)
    }

    /// The architectures, for messages.
    pub fn archs(&self) -> String {
        self.0.iter().map(|runner| runner.arch).collect::<Vec<_>>().join(", ")
    }
}
