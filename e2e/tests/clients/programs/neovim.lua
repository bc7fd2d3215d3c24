-- Prints what the event loop of Neovim, with which its language servers' files are watched, reports of the current
-- directory: nvim --headless -c 'luafile neovim.lua'.
local function say(...)
  io.stdout:write(table.concat({ ... }, " "), "\n")
  io.stdout:flush()
end
vim.loop.new_fs_event():start(vim.fn.getcwd(), {}, function(err, name, events)
  if err then
    say("error", err)
  elseif events.rename then
    say("rename", name)
  elseif events.change then
    say("change", name)
  end
end)
say("ready")
