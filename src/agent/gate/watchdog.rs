//! A hardware (or hypervisor's) watchdog, as a second line: it resets the host when nobody strokes it any more.
//!
//! Setting a watchdog's timeout is an ioctl, for which there is no safe call; so we take the device as the operator's
//! module options or systemd (`RuntimeWatchdogSec=`, `watchdog.open_timeout`) set it, read back from sysfs what it grants,
//! and refuse one whose timeout breaks the lease's arithmetic. Most count in whole seconds: with leases of 200 ms none
//! fits, and the gate stands alone.
//!
//! A watchdog bounds what a host does whose kernel hangs as a whole, so that no timeout in it runs.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    path::{Path, PathBuf},
    time::Duration,
};

use crate::model::policy::LeasePolicy;

/// Where the kernel lists watchdogs.
const CLASS: &str = "/sys/class/watchdog";
/// Written last, it tells the device that the close is meant.
const MAGIC_CLOSE: &[u8] = b"V";

/// Why a watchdog is not used.
#[derive(Debug, thiserror::Error)]
pub enum WatchdogError {
    /// The device, or what sysfs says of it, could not be used.
    #[error("{}: {source}; is a watchdog driver loaded, and no other program using it?", path.display())]
    Io {
        /// Which file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// It would reset the host too late.
    #[error(
        "the watchdog {} resets after {granted:?}, and the lease allows {allowed:?}: set the driver's timeout option \
         lower, or make the lease longer",
        device.display()
    )]
    TooSlow {
        /// Which.
        device: PathBuf,
        /// What it grants.
        granted: Duration,
        /// The most that keeps the promise.
        allowed: Duration,
    },
    /// It was not stroked: the renewal that it stands for is too old.
    #[error("the watchdog is not stroked for a renewal that is {age:?} old, {most:?} at most")]
    TooOld {
        /// The age.
        age: Duration,
        /// The most.
        most: Duration,
    },
}

/// The longest timeout with which a watchdog keeps the lease's promise, if it is stroked only for renewals that were sent
/// at most `age` ago.
///
/// The renewal was sent at `s`, the stroke comes by `s + age/(1-ρ)`, the reset by `timeout/(1-ρ)` later, and no voter acts
/// before `s + W/(1+ρ)`. So `timeout <= (1-ρ)·W/(1+ρ) - age`.
#[must_use]
pub fn allowed_timeout(policy: &LeasePolicy, age: Duration) -> Duration {
    let permille = u128::from(policy.clock_rate_permille.min(1000));
    let nanos = policy.wait.as_nanos() * (1000 - permille) / (1000 + permille);
    // Of a time that fits u64 nanoseconds this is a part.
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX)).saturating_sub(age)
}

/// An armed watchdog. Dropped without [`Watchdog::disarm`], it goes on and resets the host: a crash is no clean stop.
#[derive(Debug)]
pub struct Watchdog {
    device: PathBuf,
    file: File,
    granted: Duration,
    age_max: Duration,
}

impl Watchdog {
    /// Arms it, if its timeout keeps the promise of `policy`. Strokes are then taken for renewals of at most `age_max`.
    ///
    /// # Errors
    /// See [`WatchdogError`]; it is not armed then.
    pub fn arm(device: &Path, policy: &LeasePolicy, age_max: Duration) -> Result<Self, WatchdogError> {
        Self::arm_below(device, Path::new(CLASS), allowed_timeout(policy, age_max), age_max)
    }

    fn arm_below(device: &Path, class: &Path, allowed: Duration, age_max: Duration) -> Result<Self, WatchdogError> {
        let io = |path: &Path| {
            let path = path.to_owned();
            move |source| WatchdogError::Io { path, source }
        };
        // Through links: /dev/watchdog is the first of them.
        let real = fs::canonicalize(device).map_err(io(device))?;
        let name = real.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let name = if name == "watchdog" { "watchdog0".to_owned() } else { name };
        let path = class.join(name).join("timeout");
        let granted = || -> Result<Duration, WatchdogError> {
            let text = fs::read_to_string(&path).map_err(io(&path))?;
            let seconds = text.trim().parse().map_err(io::Error::other).map_err(io(&path))?;
            Ok(Duration::from_secs(seconds))
        };
        let fits = |granted: Duration| {
            // Zero: the driver does not tell.
            if granted.is_zero() || granted > allowed {
                return Err(WatchdogError::TooSlow { device: device.to_owned(), granted, allowed });
            }
            Ok(granted)
        };
        // Before it is opened, since opening arms it; and after, since arming may change it.
        fits(granted()?)?;
        let file = OpenOptions::new().write(true).open(device).map_err(io(device))?;
        let mut own = Self { device: device.to_owned(), file, granted: Duration::ZERO, age_max };
        match granted().and_then(fits) {
            Ok(granted) => own.granted = granted,
            Err(e) => {
                own.disarm()?;
                return Err(e);
            }
        }
        Ok(own)
    }

    /// Strokes it, for a renewal that was sent this long ago.
    ///
    /// # Errors
    /// The renewal is too old, or the device failed.
    pub fn stroke(&mut self, age: Duration) -> Result<(), WatchdogError> {
        if age > self.age_max {
            return Err(WatchdogError::TooOld { age, most: self.age_max });
        }
        self.write(b"1")
    }

    /// What it grants: the host is reset this long after the last stroke.
    #[must_use]
    pub const fn granted(&self) -> Duration {
        self.granted
    }

    /// Ends it without a reset: after a clean stop with the gate shut, and only then. A driver with `nowayout` resets all
    /// the same.
    ///
    /// # Errors
    /// The device failed; the host will be reset.
    pub fn disarm(mut self) -> Result<(), WatchdogError> {
        self.write(MAGIC_CLOSE)
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), WatchdogError> {
        self.file.write_all(bytes).map_err(|source| WatchdogError::Io { path: self.device.clone(), source })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: fn(u64) -> Duration = Duration::from_millis;

    fn policy(length: Duration, wait: Duration) -> LeasePolicy {
        LeasePolicy {
            length,
            renew_every: length / 4,
            enforced_within: MS(12),
            clock_rate_permille: 100,
            wait,
            voters: Vec::new(),
        }
    }

    /// A device and what sysfs says of it.
    fn device(timeout: &str) -> (tempfile::TempDir, PathBuf, PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let (device, class) = (directory.path().join("watchdog"), directory.path().join("class"));
        fs::write(&device, "").unwrap();
        fs::create_dir_all(class.join("watchdog0")).unwrap();
        fs::write(class.join("watchdog0/timeout"), timeout).unwrap();
        (directory, device, class)
    }

    #[test]
    fn the_arithmetic() {
        // A lease of 200 ms: no watchdog of whole seconds fits.
        assert!(allowed_timeout(&policy(MS(200), MS(260)), MS(50)) < MS(1000));
        // 10 s, W 12.2 s, stroked for renewals of at most 2.5 s: 0.9 / 1.1 * 12.2 - 2.5.
        let allowed = allowed_timeout(&policy(MS(10_000), MS(12_222)), MS(2_500));
        assert!(allowed > MS(7_400) && allowed < MS(7_500), "{allowed:?}");
        assert_eq!(allowed_timeout(&policy(MS(200), MS(260)), MS(5_000)), Duration::ZERO);
    }

    /// Over a grid of clock rates, the reset never comes after a voter may act.
    #[test]
    fn a_reset_comes_before_anybody_acts() {
        let (wait, age) = (12.222_f64, 2.5_f64);
        let allowed = allowed_timeout(&policy(MS(10_000), MS(12_222)), MS(2_500)).as_secs_f64();
        for holder in [0.9, 1.0, 1.1] {
            for hardware in [0.9, 1.0, 1.1] {
                for voter in [0.9, 1.0, 1.1] {
                    assert!(age / holder + allowed / hardware <= wait / voter + 1e-6, "{holder} {hardware} {voter}");
                }
            }
        }
    }

    #[test]
    fn one_that_is_too_slow_is_never_armed() {
        for timeout in ["60\n", "0\n", "never\n"] {
            let (_directory, path, class) = device(timeout);
            assert!(Watchdog::arm_below(&path, &class, MS(8_000), MS(1_000)).is_err(), "{timeout}");
            assert_eq!(fs::read_to_string(&path).unwrap(), "");
        }
    }

    #[test]
    fn it_is_stroked_for_fresh_renewals_and_closed_cleanly_once() {
        let (_directory, path, class) = device("8\n");
        let mut watchdog = Watchdog::arm_below(&path, &class, MS(8_000), MS(1_000)).unwrap();
        assert_eq!(watchdog.granted(), MS(8_000));
        watchdog.stroke(MS(900)).unwrap();
        assert!(matches!(watchdog.stroke(MS(1_100)), Err(WatchdogError::TooOld { .. })));
        watchdog.disarm().unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "1V");
    }

    #[test]
    fn a_drop_is_no_clean_stop() {
        let (_directory, path, class) = device("8\n");
        drop(Watchdog::arm_below(&path, &class, MS(8_000), MS(1_000)).unwrap());
        assert_eq!(fs::read_to_string(&path).unwrap(), "");
    }
}
