// The virtio-serial port that beats go to: a driver for the device's legacy interface (virtio 1.0, 5.3 and 4.1.5), which polls.
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { MaxLine = 256 };

// False when there is no such device.
bool openHeartbeatPort(void);

// Takes the whole line, of MaxLine bytes at most, or nothing of it: nobody listens on the host, or the queue is full.
bool sendLine(const char* line, size_t length);
