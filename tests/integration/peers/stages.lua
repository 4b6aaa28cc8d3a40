-- All stages of two messages on one connection, with macros, edits and an abort.
--
--     miltertest -s stages.lua -D sock=inet:PORT@HOST

-- miltertest itself does not print the text of an error.
function fail(text)
  io.stderr:write(text, "\n")
  error(text)
end

function must(what, failure)
  if failure ~= nil then fail(what .. ": " .. tostring(failure)) end
end

function continued(what, failure)
  must(what, failure)
  if mt.getreply(conn) ~= SMFIR_CONTINUE then
    fail(what .. " is answered " .. string.char(mt.getreply(conn)))
  end
end

function edited(what, operation, ...)
  if not mt.eom_check(conn, operation, ...) then fail(what .. " is missing") end
end

function message(id, subject)
  mt.macro(conn, SMFIC_MAIL, "i", id, "{auth_authen}", "joe")
  continued("MAIL", mt.mailfrom(conn, "<a@src.example>", "SIZE=10", "BODY=8BITMIME"))
  mt.macro(conn, SMFIC_RCPT, "{rcpt_addr}", "b@dst.example")
  continued("RCPT", mt.rcptto(conn, "<b@dst.example>", "NOTIFY=NEVER"))
  continued("RCPT", mt.rcptto(conn, "<c@dst.example>"))
  continued("DATA", mt.data(conn))
  continued("header", mt.header(conn, "Subject", subject))
  continued("header", mt.header(conn, "X-Remove", "this"))
  continued("end of headers", mt.eoh(conn))
  continued("body", mt.bodystring(conn, "first\r\n"))
  continued("body", mt.bodystring(conn, "second\r\n"))
end

conn = mt.connect(sock)
if conn == nil then fail("no connection to " .. sock) end
-- On the wire the second number is the protocol's options, and the third its actions.
must("negotiation", mt.negotiate(conn, 6, 0x1ff, 0x1fffff))
if not mt.test_action(conn, SMFIF_QUARANTINE) then fail("quarantine is not asked for") end
if mt.test_option(conn, SMFIP_NOHELO) then fail("HELO is not wanted") end
mt.macro(conn, SMFIC_CONNECT, "j", "mx.test.example", "{daemon_name}", "miltertest")
continued("CONNECT", mt.conninfo(conn, "client.example", "192.0.2.1"))
continued("HELO", mt.helo(conn, "helo.example"))
continued("unknown command", mt.unknown(conn, "XYZZY 1"))

message("ID0", "given up")
must("abort", mt.abort(conn))

for number = 1, 2 do
  message("ID" .. number, "subject " .. number)
  must("end of message", mt.eom(conn))
  if mt.getreply(conn) ~= SMFIR_ACCEPT then fail("the message is not accepted") end
  edited("header", MT_HDRADD, "X-Id", "ID" .. number)
  edited("top header", MT_HDRINSERT, "X-Top", "first line\n\tsecond line", 0)
  edited("new subject", MT_HDRCHANGE, "Subject", "[2] subject " .. number)
  edited("removed header", MT_HDRDELETE, "X-Remove")
  edited("recipient", MT_RCPTADD, "<d@dst.example>")
  edited("removed recipient", MT_RCPTDELETE, "<c@dst.example>")
  edited("body", MT_BODYCHANGE, "FIRST\r\nSECOND\r\n")
  edited("quarantine", MT_QUARANTINE, "held " .. number)
  mt.echo(mt.getheader(conn, "X-Id", 0))
end
mt.disconnect(conn)
