"""Text of slurm.conf, gres.conf and slurmdbd.conf.

Timeouts are as short as Slurm 22.05 allows, so that tests of faults are fast.
"""

from __future__ import annotations

import socket

from .layout import Layout, Settings

GPUS_PER_NODE = 2
MEMORY_PER_CPU = 2000  # MB
# A node is marked down when pings have failed for SlurmdTimeout. A ping of a dead node takes
# MessageTimeout, and slurmctld retries every second, so the delay depends on both.
SLURMD_TIMEOUT = 5
MESSAGE_TIMEOUT = 3
CREDENTIAL_SECONDS = 5  # the minimum of munge; a requeued job waits one second longer
KILL_WAIT = 2  # from SIGTERM to SIGKILL


def slurm_conf(layout: Layout, settings: Settings) -> str:
    """Return the text of slurm.conf, which all daemons and clients read."""
    options = settings.options
    return f"""\
ClusterName={layout.cluster_name}
SlurmctldHost={socket.gethostname().split(".")[0]}({controller_address(settings)})
SlurmctldPort={settings.controller_port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={layout.munge_socket},cred_expire={CREDENTIAL_SECONDS}
CredType=cred/munge
StateSaveLocation={layout.run}/slurmctld
SlurmdSpoolDir={layout.run}/%n
SlurmctldPidFile={layout.run}/slurmctld.pid
SlurmdPidFile={layout.run}/slurmd-%n.pid
SlurmctldLogFile={layout.log}/slurmctld.log
SlurmdLogFile={layout.log}/slurmd-%n.log
MailProg=/bin/true
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=2
JobAcctGatherParams=OverMemoryKill
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
DefMemPerCPU={MEMORY_PER_CPU}
# More CPUs and memory than the machine has are fine.
SlurmdParameters=config_overrides
ReturnToService=2
JobRequeue=1
MaxArraySize={options.max_array_size}
MaxJobCount={max(10000, options.max_array_size)}
# Less than cred_expire: otherwise a restart on the same node is refused and the job is held.
KillWait={KILL_WAIT}
InactiveLimit=0
MinJobAge=300
SlurmctldTimeout=10
SlurmdTimeout={SLURMD_TIMEOUT}
BatchStartTimeout=10
MessageTimeout={MESSAGE_TIMEOUT}
SchedulerType=sched/backfill
# Rare backfill: a slurmctld killed soon after a backfill forgets which jobs it started.
SchedulerParameters=batch_sched_delay=0,sched_interval=2,bf_interval=10,sched_min_interval=0
GresTypes=gpu
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmctldParameters=preempt_send_user_signal
{_accounting(layout, settings)}
{_nodes(settings)}
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP PriorityTier=1 GraceTime=10
PartitionName=high Nodes=ALL MaxTime=INFINITE State=UP PriorityTier=10 PreemptMode=OFF
"""


def gres_conf(layout: Layout) -> str:
    """Return the text of gres.conf: fake GPUs that set CUDA_VISIBLE_DEVICES and isolate nothing."""
    return f"AutoDetect=off\nName=gpu File={layout.folder}/dev/gpu[0-{GPUS_PER_NODE - 1}]\n"


def slurmdbd_conf(layout: Layout, settings: Settings) -> str:
    return f"""\
AuthType=auth/munge
AuthInfo=socket={layout.munge_socket}
DbdHost=localhost
DbdPort={settings.database_port}
SlurmUser=root
PidFile={layout.run}/slurmdbd.pid
LogFile={layout.log}/slurmdbd.log
StorageType=accounting_storage/mysql
StorageHost=localhost
StorageUser=root
StorageLoc=slurm_acct_db
"""


def hosts(settings: Settings) -> str:
    """Return the text of /etc/hosts for nodes with their own network namespace."""
    lines = [
        "127.0.0.1 localhost",
        f"{controller_address(settings)} {socket.gethostname()}",
        *(f"{node_address(settings, name)} {name}" for name in settings.node_names),
    ]
    return "".join(f"{line}\n" for line in lines)


def controller_address(settings: Settings) -> str:
    return f"{settings.subnet}.1" if settings.subnet else "127.0.0.1"


def node_address(settings: Settings, name: str) -> str:
    return f"{settings.subnet}.{100 + int(name[1:])}" if settings.subnet else "127.0.0.1"


def _accounting(layout: Layout, settings: Settings) -> str:
    if not settings.options.accounting:
        return "AccountingStorageType=accounting_storage/none"
    # The "password" is the path of the munge socket; the default is in /run/munge.
    return f"""\
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost={controller_address(settings)}
AccountingStoragePort={settings.database_port}
AccountingStorageUser=root
AccountingStoragePass={layout.munge_socket}"""


def _nodes(settings: Settings) -> str:
    cpus = settings.options.cpus
    host = socket.gethostname().split(".")[0]
    return "\n".join(
        f"NodeName={name} NodeHostname={name if settings.subnet else host} "
        f"NodeAddr={node_address(settings, name)} Port={port} CPUs={cpus} Boards=1 "
        f"SocketsPerBoard=1 CoresPerSocket={cpus} ThreadsPerCore=1 "
        f"RealMemory={cpus * MEMORY_PER_CPU} Gres=gpu:{GPUS_PER_NODE} State=UNKNOWN"
        for name, port in zip(settings.node_names, settings.node_ports, strict=True)
    )
