//! A unit of this host's systemd, over the system bus: how it stands, whether it may start, stop and kill.
//!
//! Three things keep a unit from starting, and whichever has an effect is read back from systemd itself. The quickest
//! is a flag: a file, where a drop-in made beforehand has the unit obey it ([`Unit::obey_flag`]); it needs no reload,
//! which takes systemd a tenth of a second and more. Next the mask for this boot, and where that has no effect because
//! the unit's file lies in /etc, a drop-in with a condition that is never met. None of the three stops an automatic
//! restart that is already under way: for that, the unit has to be told to stop.

use std::{io::ErrorKind, path::PathBuf};

use futures::{FutureExt, StreamExt};
use zbus::{Connection, MatchRule, MessageStream, OwnedObjectPath, OwnedVariant, message};

use super::file;

const DESTINATION: &str = "org.freedesktop.systemd1";
const MANAGER: &str = "/org/freedesktop/systemd1";
const MANAGER_INTERFACE: &str = "org.freedesktop.systemd1.Manager";
const UNIT_INTERFACE: &str = "org.freedesktop.systemd1.Unit";
const SERVICE_INTERFACE: &str = "org.freedesktop.systemd1.Service";
const PROPERTIES_INTERFACE: &str = "org.freedesktop.DBus.Properties";

/// Flags lie here, one per unit; gone with the boot.
const FLAGS: &str = "/run/coroner/inhibit";

/// Our drop-in, where the mask has no effect. No condition on the root directory's absence is ever met.
const DROP_IN: &str = "# A fence of Coroner's: this unit must not start. It is removed when the fence is lifted.\n\
                       [Unit]\nConditionPathExists=!/\n";

/// A condition, as systemd tells it: kind, trigger, negated, parameter, last result.
type Condition = (String, bool, bool, String, i32);

/// The manager, and one unit of it.
#[derive(Debug)]
pub struct Unit {
    bus: Connection,
    name: String,
    path: OwnedObjectPath,
}

/// How a unit stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State {
    /// `active`, `inactive`, `failed`, `activating`, …
    pub active: String,
    /// All its processes.
    pub processes: Vec<u32>,
}

impl State {
    /// Neither active nor with a process.
    #[must_use]
    pub fn has_stopped(&self) -> bool {
        matches!(self.active.as_str(), "inactive" | "failed") && self.processes.is_empty()
    }

    /// In words.
    #[must_use]
    pub fn describe(&self) -> String {
        if self.processes.is_empty() {
            return format!("it is {} and has no process", self.active);
        }
        let pids = self.processes.iter().take(8).map(u32::to_string).collect::<Vec<_>>().join(", ");
        format!("it is {} with the processes {pids}", self.active)
    }
}

/// What there is to know of a unit that is watched.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// `loaded`, `masked`, `not-found`, …
    pub load: String,
    /// `active`, `inactive`, `failed`, `activating`, …
    pub active: String,
    /// `running`, `auto-restart`, `dead`, …
    pub sub: String,
    /// Its main process; 0: none.
    pub main_pid: u32,
    /// Its control group below the cgroup2 mount; empty: none.
    pub control_group: String,
    /// How it last ended: `success`, `signal`, `core-dump`, `oom-kill`, …
    pub result: String,
}

impl Unit {
    /// Opens the bus and loads the unit.
    ///
    /// # Errors
    /// There is no bus, or systemd refuses.
    pub async fn open(name: String) -> Result<Self, String> {
        let bus = Connection::system().await.map_err(|e| format!("the system bus cannot be reached: {e}"))?;
        let manager = Self { bus, name, path: OwnedObjectPath::default() };
        let path = manager.manager("LoadUnit", &(manager.name.as_str(),)).await?;
        Ok(Self { path, ..manager })
    }

    /// Calls a method of the manager.
    async fn manager<B, R>(&self, method: &str, body: &B) -> Result<R, String>
    where
        B: serde::Serialize + zbus::zvariant::DynamicType + Sync,
        R: for<'d> zbus::zvariant::DynamicDeserialize<'d>,
    {
        let reply = self
            .bus
            .call_method(Some(DESTINATION), MANAGER, Some(MANAGER_INTERFACE), method, body)
            .await
            .map_err(|e| format!("systemd refused {method}: {e}"))?;
        reply.body().deserialize().map_err(|e| format!("systemd's answer to {method} was not understood: {e}"))
    }

    async fn property(&self, name: &str) -> Result<OwnedVariant, String> {
        self.property_of(UNIT_INTERFACE, name).await
    }

    async fn property_of(&self, interface: &str, name: &str) -> Result<OwnedVariant, String> {
        let reply = self
            .bus
            .call_method(Some(DESTINATION), &self.path, Some(PROPERTIES_INTERFACE), "Get", &(interface, name))
            .await
            .map_err(|e| format!("systemd refused {name} of {}: {e}", self.name))?;
        reply.body().deserialize().map_err(|e| format!("{name} of {} was not understood: {e}", self.name))
    }

    /// A property that is a text, such as `LoadState`.
    ///
    /// # Errors
    /// systemd does not answer, or refuses.
    pub async fn text(&self, name: &str) -> Result<String, String> {
        String::try_from(self.property(name).await?).map_err(|e| format!("{name} of {} is no text: {e}", self.name))
    }

    /// Whether something of ours, or a mask, keeps it from starting, as systemd itself sees it.
    ///
    /// # Errors
    /// systemd does not answer, or refuses.
    pub async fn inhibited_by(&self) -> Result<Option<&'static str>, String> {
        if self.text("LoadState").await? == "masked" {
            return Ok(Some("it is masked for this boot"));
        }
        let paths: Vec<String> = self
            .property("DropInPaths")
            .await?
            .try_into()
            .map_err(|e| format!("DropInPaths of {} is no list: {e}", self.name))?;
        if flag(&self.name).exists() && self.obeys_flag().await? {
            return Ok(Some("a flag keeps it from starting"));
        }
        let ours = drop_in(&self.name);
        Ok(paths.iter().any(|path| *path == ours.to_string_lossy()).then_some("a drop-in keeps it from starting"))
    }

    async fn reload(&self) -> Result<(), String> {
        self.manager("Reload", &()).await
    }

    /// Keeps it from starting, for this boot. Idempotent.
    ///
    /// # Errors
    /// systemd does not answer, or refuses.
    pub async fn inhibit(&self) -> Result<&'static str, String> {
        if let Some(how) = self.inhibited_by().await? {
            return Ok(how);
        }
        if self.obeys_flag().await.unwrap_or(false) {
            let flag = flag(&self.name);
            let written = std::fs::create_dir_all(FLAGS).and_then(|()| std::fs::write(&flag, "fenced by Coroner\n"));
            if written.is_ok() {
                return Ok("a flag keeps it from starting");
            }
        }
        type Changes = Vec<(String, String, String)>;
        let _: Changes = self.manager("MaskUnitFiles", &([self.name.as_str()].as_slice(), true, true)).await?;
        self.reload().await?;
        if let Some(how) = self.inhibited_by().await? {
            return Ok(how);
        }
        let path = drop_in(&self.name);
        let directory = path.parent().unwrap_or(&path);
        std::fs::create_dir_all(directory)
            .and_then(|()| file::replace(&path, DROP_IN.as_bytes()))
            .map_err(|e| format!("the mask has no effect, and {} cannot be written: {e}", path.display()))?;
        self.reload().await?;
        self.inhibited_by().await?.ok_or_else(|| "neither the mask nor the drop-in has an effect".to_owned())
    }

    /// Takes all of that away. It is not started.
    ///
    /// # Errors
    /// systemd does not answer, or refuses.
    pub async fn allow(&self) -> Result<(), String> {
        type Changes = Vec<(String, String, String)>;
        let _: Changes = self.manager("UnmaskUnitFiles", &([self.name.as_str()].as_slice(), true)).await?;
        for path in [flag(&self.name), drop_in(&self.name)] {
            match std::fs::remove_file(&path) {
                Err(e) if e.kind() != ErrorKind::NotFound => {
                    return Err(format!("{} cannot be removed: {e}", path.display()));
                }
                _ => {}
            }
        }
        self.reload().await?;
        match self.inhibited_by().await? {
            None => Ok(()),
            Some(how) => Err(format!("{how} still: somebody else masked it")),
        }
    }

    /// How it stands.
    ///
    /// # Errors
    /// systemd does not answer, or refuses.
    pub async fn state(&self) -> Result<State, String> {
        let active = self.text("ActiveState").await?;
        let processes: Vec<(String, u32, String)> =
            self.manager("GetUnitProcesses", &(self.name.as_str(),)).await.or_else(|e| {
                // A unit that systemd has already forgotten has none.
                if e.contains("NoSuchUnit") || e.contains("not loaded") { Ok(Vec::new()) } else { Err(e) }
            })?;
        Ok(State { active, processes: processes.into_iter().map(|(_, pid, _)| pid).collect() })
    }

    /// Tells it to stop, and does not wait. An automatic restart that is scheduled is called off.
    ///
    /// # Errors
    /// systemd does not answer, or refuses.
    pub async fn stop(&self) -> Result<(), String> {
        let _: OwnedObjectPath = self.manager("StopUnit", &(self.name.as_str(), "replace-irreversibly")).await?;
        Ok(())
    }

    /// Tells it to start, and does not wait.
    ///
    /// # Errors
    /// systemd does not answer, or refuses.
    pub async fn start(&self) -> Result<(), String> {
        let _: OwnedObjectPath = self.manager("StartUnit", &(self.name.as_str(), "replace")).await?;
        Ok(())
    }

    /// Sends KILL to all its processes.
    ///
    /// # Errors
    /// systemd does not answer, or refuses.
    pub async fn kill(&self) -> Result<(), String> {
        self.manager("KillUnit", &(self.name.as_str(), "all", 9_i32)).await
    }

    /// Whether its loaded configuration has it obey the flag.
    async fn obeys_flag(&self) -> Result<bool, String> {
        let conditions: Vec<Condition> = self
            .property("Conditions")
            .await?
            .try_into()
            .map_err(|e| format!("the conditions of {} were not understood: {e}", self.name))?;
        let flag = flag(&self.name);
        Ok(conditions.iter().any(|(kind, _, is_negated, parameter, _)| {
            kind == "ConditionPathExists" && *is_negated && *parameter == flag.to_string_lossy()
        }))
    }

    /// Has the unit obey the flag, by a drop-in for this boot, so that to inhibit it later takes no reload. Done
    /// beforehand; harmless while there is no flag. Idempotent.
    ///
    /// # Errors
    /// The drop-in cannot be written or has no effect: then inhibiting falls back to the mask.
    pub async fn obey_flag(&self) -> Result<(), String> {
        if self.obeys_flag().await? {
            return Ok(());
        }
        let path = PathBuf::from(format!("/run/systemd/system/{}.d/50-coroner-inhibit.conf", self.name));
        let text = format!(
            "# Lets Coroner keep this unit from starting by making one file, without a reload of systemd.\n\
             [Unit]\nConditionPathExists=!{}\n",
            flag(&self.name).to_string_lossy().replace('%', "%%")
        );
        std::fs::create_dir_all(path.parent().unwrap_or(&path))
            .and_then(|()| file::replace(&path, text.as_bytes()))
            .map_err(|e| format!("{} cannot be written: {e}", path.display()))?;
        self.reload().await?;
        if self.obeys_flag().await? { Ok(()) } else { Err(format!("{} has no effect", path.display())) }
    }

    /// Whether systemd starts it again when it ends: its `Restart=`; empty for what is no service.
    pub async fn restart(&self) -> String {
        let restart = self.property_of(SERVICE_INTERFACE, "Restart").await.ok();
        restart.and_then(|restart| String::try_from(restart).ok()).unwrap_or_default()
    }

    /// Everything that is watched, read once.
    ///
    /// # Errors
    /// systemd does not answer.
    pub async fn standing(&self) -> Result<Standing, String> {
        let service = async |name| self.property_of(SERVICE_INTERFACE, name).await.ok();
        let text = |value: Option<OwnedVariant>| value.and_then(|v| String::try_from(v).ok()).unwrap_or_default();
        Ok(Standing {
            load: self.text("LoadState").await?,
            active: self.text("ActiveState").await?,
            sub: self.text("SubState").await?,
            // A unit that is no service has none of these.
            main_pid: service("MainPID").await.and_then(|v| u32::try_from(v).ok()).unwrap_or_default(),
            control_group: text(service("ControlGroup").await),
            result: text(service("Result").await),
        })
    }

    /// Tells how the unit stands, now and after every change that systemd announces, until the bus is lost or `tell`
    /// says that nobody listens any more (`false`). Nothing is polled.
    ///
    /// # Errors
    /// The bus is lost, or systemd does not answer.
    pub async fn watch(&self, mut tell: impl FnMut(Standing) -> bool) -> Result<(), String> {
        let () = self.manager("Subscribe", &()).await?;
        let no_rule = |e: zbus::Error| format!("changes of {} cannot be watched: {e}", self.name);
        let rule = MatchRule::builder()
            .msg_type(message::Type::Signal)
            .sender(DESTINATION)
            .interface(PROPERTIES_INTERFACE)
            .member("PropertiesChanged")
            .path(self.path.clone())
            .build()
            .map_err(no_rule)?;
        let mut changes = MessageStream::for_match_rule(rule, &self.bus, None).await.map_err(no_rule)?;
        loop {
            if !tell(self.standing().await?) {
                return Ok(());
            }
            if changes.next().await.is_none() {
                return Err("the system bus was lost".into());
            }
            // One change comes as several signals; what is read next is newer than all that have arrived.
            while let Some(Some(_)) = changes.next().now_or_never() {}
        }
    }
}

fn flag(unit: &str) -> PathBuf {
    PathBuf::from(FLAGS).join(unit)
}

fn drop_in(unit: &str) -> PathBuf {
    PathBuf::from(format!("/run/systemd/system/{unit}.d/00-coroner-fence.conf"))
}
