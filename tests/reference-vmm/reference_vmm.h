// The reference VMM: the smallest program that a manager can drive exactly as it drives QEMU. It is there to inject faults, and
// to be many on few cores.
//
// It takes QEMU's command line, serves QEMU's monitor, has RAM blocks of its own beside the guest's RAM, and hands its guest over
// on QEMU's wire, in the modes `normal` and `cpr-transfer`. Its guest is a counter: it counts while the guest "runs", beats on
// the heartbeat port as tests/guest/probe.c does, and at each count finds in a few pages of every RAM block the count before. So
// memory that was lost, swapped, left behind, or written by a second VMM is noticed, and told in `E` lines and as `mismatches=`.
//
//     reference-vmm QEMU-OPTIONS... [--as 10.0|11.1] [--vram-mib N] [--beats-per-second N] [--silent-connections N]
//         [--queued-beats N] [--clock-ahead SECONDS | --clock-behind SECONDS] [--fault STEP[@N]=ACTION]...
//         [--answer COMMAND=JSON]...
//
// With `--silent-connections N` the first N clients of the heartbeat port hear nothing, as it may happen to QEMU's. With
// `--queued-beats N` so many beats come with `cont`, whether the guest runs or not: as if they had lain in its port's queue. With
// a clock ahead or behind, its events tell their time by a wall clock that is set otherwise, as if it had been set while the
// guest was handed over to it. What `--answer` gives is the monitor's answer to that command, whatever comes of the command.
//
// The probing of a binary (`-machine none`) is served without faults. With `@N` a fault happens the N-th time that the step is
// reached, otherwise each time.
//
//     step            reached when
//     start           the command line has been read
//     cpr-sent        old: the CPR state is sent (`slow`: before it, the rest of the general actions: after it)
//     cpr-received    new: the CPR state has come whole
//     monitor         the first command of all comes
//     verify          x-query-ramblock comes
//     migrate         migrate comes
//     incoming        migrate-incoming comes
//     hang-up         old: the CPR channel is hung up; new: it is about to be
//     stream-begin    old: connected, nothing sent yet; new: connected, nothing read yet
//     stream-middle   old: RAM is sent, the device not yet; new: RAM is loaded
//     stream-end      all is sent, or loaded; nothing is answered yet on the return path
//     completed       old: it has said that its migration has completed
//     cont, quit      that command comes
//
//     action          what happens                              at the steps
//     die             SIGKILL                                   all
//     exit:N          the process ends with status N            all
//     hang            nothing is served any more                all
//     slow:MS         the step takes that much longer; all else is served meanwhile (but at start and cpr-received)
//                                                               all
//     garbage         random bytes in place of the answer, the table, the state, the stream, or what the return path says
//                                                               monitor verify migrate incoming cont quit cpr-sent stream-*
//     lie             success is told and the thing not done    monitor migrate incoming cont quit cpr-sent; as well as
//                       verify: the table lacks the last block; cpr-received: goes on with memory of its own;
//                       hang-up: hangs up without listening; stream-end: completes without an answer, or without the device
//     drop:NAME  rename:NAME:OTHER  swap:A:B  replace:NAME  truncate:N  trailing:N  bad-service-byte:NAME  missing-descriptor
//                     the CPR state lacks an entry, has it by another name, has two entries' descriptors exchanged, another
//                     memfd of the same size, only its first N bytes, N bytes more, an X for the byte that carries a
//                     descriptor, or lacks the last descriptor  cpr-sent
//
// Commands that QEMU does not have: `x-ref-plug` {name, size} adds a RAM block with a memfd, so that the CPR state changes;
// `x-ref-replace` {name} puts a block into another memfd with the same content; `x-ref-claim` {name, path} maps a file that the
// VMM may only read, and claims that it is a RAM block of no length.
#pragma once

#include <string>
#include <vector>

namespace vh {

/// Serves until it is told to end; returns the exit status. `arguments` are without the program's name.
int serveReferenceVmm(const std::vector<std::string>& arguments);

}  // namespace vh
