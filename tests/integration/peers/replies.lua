-- Verdicts and replies: of the milter's own wording, and those of the MTA.
--
--     miltertest -s replies.lua -D sock=inet:PORT@HOST

-- miltertest itself does not print the text of an error.
function fail(text)
  io.stderr:write(text, "\n")
  error(text)
end

function expect(what, reply)
  if mt.getreply(conn) ~= reply then
    fail(what .. " is answered " .. string.char(mt.getreply(conn)))
  end
end

function open()
  conn = mt.connect(sock)
  if conn == nil then fail("no connection to " .. sock) end
  if mt.negotiate(conn, 6, 0x1ff, 0x1fffff) ~= nil then fail("negotiation") end
end

function reply_at(what, code, enhanced, text)
  expect(what, SMFIR_REPLYCODE)
  if not mt.eom_check(conn, MT_SMTPREPLY, code, enhanced, text) then
    fail(what .. ": another reply than " .. code .. " " .. enhanced .. " " .. text)
  end
end

open()
mt.mailfrom(conn, "<reject@src.example>")
expect("reject", SMFIR_REJECT)
mt.mailfrom(conn, "<tempfail@src.example>")
expect("tempfail", SMFIR_TEMPFAIL)
mt.mailfrom(conn, "<discard@src.example>")
expect("discard", SMFIR_DISCARD)
mt.mailfrom(conn, "<accept@src.example>")
expect("accept", SMFIR_ACCEPT)
mt.mailfrom(conn, "<fault@src.example>")
expect("fault", SMFIR_TEMPFAIL)
mt.mailfrom(conn, "<reply@src.example>")
expect("reply", SMFIR_REPLYCODE)
-- Recipients of one message, each with an answer of its own.
mt.mailfrom(conn, "<a@src.example>")
mt.rcptto(conn, "<reply@dst.example>")
expect("reply to RCPT", SMFIR_REPLYCODE)
mt.rcptto(conn, "<b@dst.example>")
expect("another RCPT", SMFIR_CONTINUE)
mt.eom(conn)
reply_at("end of message", "554", "5.7.1", "not this one")
mt.disconnect(conn)

-- One that goes away without a word, within a message.
open()
mt.mailfrom(conn, "<a@src.example>")
expect("MAIL", SMFIR_CONTINUE)
mt.disconnect(conn, false)
