// The first virtio network card: the guest has an IPv4 address, answers who asks for it (ARP), and answers pings.
#pragma once

#include <stdbool.h>
#include <stdint.h>

// An address such as 10.77.0.2 is 0x0a4d0002. False when there is no such card.
bool openNetwork(uint32_t address);

// Answers what has come since the last time; never waits. Called at each beat.
void answerNetwork(void);
