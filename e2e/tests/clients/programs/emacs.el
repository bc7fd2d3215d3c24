;; Prints what is in the file `page` whenever Emacs is notified of a change in the current directory.
(require 'filenotify)
(defun say (_event)
  (when (file-exists-p "page")
    (message "%s" (with-temp-buffer (insert-file-contents "page") (buffer-string)))))
(file-notify-add-watch default-directory '(change) #'say)
(say nil)
(while t (read-event nil nil 1))
