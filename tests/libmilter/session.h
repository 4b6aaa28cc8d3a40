/*
 * One session, in a process of its own: libmilter on one side, its MTA on the other.
 *
 * A result is u8 status, then either a text that says what is wrong, or
 *
 *     u32 connections, each    u8 how it is: 0 open, 1 closed by libmilter after it had seen the
 *                              end of the input, 2 closed by libmilter of its own accord;
 *                              u32 bytes that libmilter had read; counted bytes: its output
 *     u32 sends, each          u32 bytes of output while libmilter was at it, u8 closed then
 *     u32 events, each         see callbacks.h
 *     counted bytes            what libmilter logged, LF after each line
 */
#ifndef SESSION_H
#define SESSION_H

#include <stddef.h>

enum status {
    STATUS_DONE,
    STATUS_STALLED, /* the limit of time is over; what there is follows as after STATUS_DONE */
    STATUS_FAILED,  /* a text follows */
};

/* Run the session of a plan, write the result to a descriptor, and end the process. */
_Noreturn void run_session(char *plan_text, int result_fd);

/* Write a whole result, with its length ahead.  Return -1 if nobody reads it any more. */
int write_result(int fd, const void *data, size_t length);

#endif
