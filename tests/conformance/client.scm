;; What GNU's herd, Guix and Shepherd read, by patterns as strict as theirs: a question a line on standard input, the
;; answer a line on standard output. The patterns are those that the protocol's specification describes.

(use-modules (ice-9 match)
             (ice-9 rdelim)
             (srfi srfi-1))

(for-each (lambda (port) (set-port-encoding! port "UTF-8"))
          (list (current-input-port) (current-output-port)))

(define (expression text)
  ;; The first expression of TEXT; what cannot be read is #f, and that matches nothing.
  (catch #t
    (lambda () (call-with-input-string text read))
    (lambda _ #f)))

(define (reply text)
  ;; (RESULT ERROR MESSAGES) of a reply; #f when GNU's client would not take it for one.
  (match (expression text)
    (('reply ('version 0 _ ...)
             ('result result) ('error error) ('messages messages))
     (list result error messages))
    (_ #f)))

(define (value properties key)
  ;; What is looked up by key, so that what else there is does no harm.
  (match (assq key properties)
    ((_ value) value)
    (_ #f)))

(define (service sexp)
  (match sexp
    (('service ('version 0 _ ...) properties ...)
     (map (lambda (key) (value properties key))
          '(provides requires running status enabled? respawn? one-shot? transient? docstring
            status-changes startup-failures last-respawns respawn-limit respawn-delay)))))

(define (services text)
  ;; The services of a reply, be it to "status root" or to "status NAME" or to "start NAME".
  (match (reply text)
    (((((and all ('service _ ...)) ...)) #f _) (map service all))
    (((('service _ ...) ) #f _) (map service (first (reply text))))
    ((('service _ ...) #f _) (list (service (first (reply text)))))))

(define (problem text)
  ;; What the error of a reply says, in the words that GNU's client has for it.
  (match (second (reply text))
    (#f "none")
    (('error ('version 0 _ ...) 'service-not-found service)
     (format #f "service '~a' could not be found" service))
    (('error ('version 0 _ ...) 'action-not-found action service)
     (format #f "service '~a' does not have an action '~a'" service action))
    (('error ('version 0 _ ...) 'action-exception action service key (arguments ...))
     (format #f "exception caught while executing '~a' on service '~a':\n~a" action service
             (call-with-output-string
               (lambda (port) (print-exception port #f key arguments)))))
    (('error ('version 0 _ ...) _ ...) "something else")))

(define (command text)
  ;; Whether Shepherd would take it for a command: #f, or "yes", or "sensible" when it also is what clients send.
  (match (expression text)
    (('shepherd-command ('version 0 _ ...)
                        ('action action) ('service service)
                        ('arguments (arguments ...)) ('directory directory))
     (if (and (symbol? action) (symbol? service) (every string? arguments) (or (not directory) (string? directory)))
         "sensible"
         "yes"))
    (_ #f)))

(define (ask path action service . arguments)
  ;; Be the client: the text of the reply, "" when there is none.
  (let ((port (socket PF_UNIX SOCK_STREAM 0)))
    (connect port AF_UNIX path)
    (set-port-encoding! port "UTF-8")
    (write `(shepherd-command (version 0)
                              (action ,(string->symbol action)) (service ,(string->symbol service))
                              (arguments ,arguments) (directory ,(getcwd)))
           port)
    (force-output port)
    (let ((answer (read port)))
      (close-port port)
      (if (eof-object? answer)
          ""
          (object->string answer)))))

(define (answer question)
  (match question
    (('reply text) (reply text))
    (('services text) (services text))
    (('problem text) (problem text))
    (('command text) (command text))
    (('ask words ...) (apply ask words))))

(let loop ((line (read-line)))
  (unless (eof-object? line)
    (write (answer (call-with-input-string line read)))
    (newline)
    (force-output)
    (loop (read-line))))
