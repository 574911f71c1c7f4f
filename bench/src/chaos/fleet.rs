//! The five backends as processes: started, killed, frozen, steered. Each has a loopback address of its own and all have one
//! port, so that a DNS name can stand for them.

use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};

use super::backend::{self, Mode};
use crate::ports;

/// How many there are.
pub const SIZE: usize = 5;

pub struct Fleet {
    port: u16,
    processes: Vec<Option<Child>>,
}

/// The address of a backend.
pub fn ip(index: usize) -> Ipv4Addr {
    Ipv4Addr::new(127, 0, 77, (index + 1) as u8)
}

impl Fleet {
    pub fn start() -> Result<Self> {
        let addresses: Vec<Ipv4Addr> = (0..SIZE).map(ip).collect();
        let mut fleet = Self { port: ports::free(&addresses)?, processes: Vec::new() };
        fleet.processes.resize_with(SIZE, || None);
        fleet.start_all()?;
        Ok(fleet)
    }

    pub fn address(&self, index: usize) -> SocketAddr {
        SocketAddr::from((ip(index), self.port))
    }

    pub fn addresses(&self) -> Vec<SocketAddr> {
        (0..SIZE).map(|index| self.address(index)).collect()
    }

    /// Starts one that does not run; returns when it accepts.
    pub fn launch(&mut self, index: usize) -> Result<()> {
        let address = self.address(index);
        let child = Command::new(std::env::current_exe()?)
            .arg("chaos-backend")
            .arg(address.to_string())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .context("cannot start a backend")?;
        *self.processes.get_mut(index).context("no such backend")? = Some(child);
        let until = Instant::now() + Duration::from_secs(10);
        while TcpStream::connect(address).is_err() {
            ensure!(Instant::now() < until, "backend {address} does not listen");
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok(())
    }

    /// Starts all that do not run.
    pub fn start_all(&mut self) -> Result<()> {
        for index in 0..SIZE {
            if self.processes.get(index).is_some_and(Option::is_none) {
                self.launch(index)?;
            }
        }
        Ok(())
    }

    /// `kill -9`; returns when it is gone.
    pub fn kill(&mut self, index: usize) -> Result<()> {
        let Some(mut child) = self.processes.get_mut(index).and_then(Option::take) else { return Ok(()) };
        child.kill()?;
        child.wait()?;
        Ok(())
    }

    pub fn kill_all(&mut self) -> Result<()> {
        (0..SIZE).try_for_each(|index| self.kill(index))
    }

    /// SIGSTOP: the kernel still accepts connections, nobody answers.
    pub fn freeze(&self, index: usize) -> Result<()> {
        self.signal(index, Signal::STOP)
    }

    pub fn thaw(&self, index: usize) -> Result<()> {
        self.signal(index, Signal::CONT)
    }

    fn signal(&self, index: usize, signal: Signal) -> Result<()> {
        let child = self.processes.get(index).and_then(Option::as_ref).context("it does not run")?;
        let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw).context("process id")?;
        Ok(kill_process(pid, signal)?)
    }

    pub fn set(&self, index: usize, mode: Mode) -> Result<()> {
        backend::order(self.address(index), &format!("set/{}", mode.name())).map(drop)
    }

    pub fn set_all(&self, mode: Mode) -> Result<()> {
        (0..SIZE).try_for_each(|index| self.set(index, mode))
    }

    /// Requests that reached any of them since their start, without probes.
    pub fn attempts(&self) -> Result<u64> {
        self.addresses().into_iter().map(|address| Ok(backend::order(address, "attempts")?.parse::<u64>()?)).sum()
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        // SIGKILL ends a stopped process, too.
        let _ = self.kill_all();
    }
}
