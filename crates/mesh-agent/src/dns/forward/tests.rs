//! Against servers on loopback that answer well, badly, or not at all.

use hickory_proto::op::{Message, OpCode};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use tokio::net::TcpListener;

use super::*;

fn query() -> Vec<u8> {
    let mut message = Message::new(7, MessageType::Query, OpCode::Query);
    let name = Name::from_ascii("example.com.").unwrap();
    message.add_query(Query::query(name, RecordType::A));
    message.to_vec().unwrap()
}

fn answer_to(query: &[u8], last: u8) -> Message {
    let query = Message::from_vec(query).unwrap();
    let mut message = Message::response(query.metadata.id, OpCode::Query);
    let question = query.queries[0].clone();
    let data = RData::A(Ipv4Addr::new(192, 0, 2, last).into());
    message.add_answer(Record::from_rdata(question.name().clone(), 60, data));
    message.add_query(question);
    message
}

fn upstream(servers: Vec<SocketAddr>, patience: Duration) -> Upstream {
    Upstream { servers, patience }
}

async fn udp() -> (UdpSocket, SocketAddr) {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    (socket, address)
}

async fn ask(upstream: Upstream) -> Message {
    let answer = upstream.ask(&query(), Transport::Udp).await.unwrap();
    Message::from_vec(&answer).unwrap()
}

const LONG: Duration = Duration::from_secs(20);

#[tokio::test]
async fn an_answer_comes_back_under_the_clients_id() {
    let (socket, address) = udp().await;
    let server = async {
        let mut buffer = [0; 512];
        let (length, client) = socket.recv_from(&mut buffer).await.unwrap();
        let answer = answer_to(&buffer[..length], 1).to_vec().unwrap();
        socket.send_to(&answer, client).await.unwrap();
    };
    let (message, ()) = tokio::join!(ask(upstream(vec![address], LONG)), server);
    assert_eq!(message.metadata.id, 7);
    assert_eq!(message.answers.len(), 1);
}

#[tokio::test]
async fn forged_answers_are_passed_over() {
    let (socket, address) = udp().await;
    let (stranger, _) = udp().await;
    let server = async {
        let mut buffer = [0; 512];
        let (length, client) = socket.recv_from(&mut buffer).await.unwrap();
        let right = answer_to(&buffer[..length], 1);
        let mut wrong_id = answer_to(&buffer[..length], 66);
        wrong_id.metadata.id ^= 1;
        let mut wrong_question = answer_to(&buffer[..length], 66);
        let other = Query::query(Name::from_ascii("example.org.").unwrap(), RecordType::A);
        wrong_question.queries = vec![other];
        let of_stranger = answer_to(&buffer[..length], 66).to_vec().unwrap();
        stranger.send_to(&of_stranger, client).await.unwrap();
        for message in [wrong_id, wrong_question, right] {
            let bytes = message.to_vec().unwrap();
            socket.send_to(&bytes, client).await.unwrap();
        }
    };
    let (message, ()) = tokio::join!(ask(upstream(vec![address], LONG)), server);
    assert_eq!(message.answers[0].data.to_string(), "192.0.2.1");
}

#[tokio::test]
async fn a_silent_server_gives_way_to_the_next() {
    let (silent, first) = udp().await;
    let (socket, second) = udp().await;
    let server = async {
        let mut buffer = [0; 512];
        let (length, client) = socket.recv_from(&mut buffer).await.unwrap();
        let answer = answer_to(&buffer[..length], 2).to_vec().unwrap();
        socket.send_to(&answer, client).await.unwrap();
    };
    let asked = upstream(vec![first, second], Duration::from_millis(300));
    let (message, ()) = tokio::join!(ask(asked), server);
    assert_eq!(message.answers[0].data.to_string(), "192.0.2.2");
    drop(silent);
}

#[tokio::test]
async fn a_truncated_answer_is_asked_for_by_tcp() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let socket = UdpSocket::bind(address).await.unwrap();
    let server = async {
        let mut buffer = [0; 512];
        let (length, client) = socket.recv_from(&mut buffer).await.unwrap();
        let short = answer_to(&buffer[..length], 1).truncate();
        socket
            .send_to(&short.to_vec().unwrap(), client)
            .await
            .unwrap();
        let (mut stream, _) = listener.accept().await.unwrap();
        let length = stream.read_u16().await.unwrap();
        let mut query = vec![0; usize::from(length)];
        stream.read_exact(&mut query).await.unwrap();
        let answer = answer_to(&query, 3).to_vec().unwrap();
        let length = u16::try_from(answer.len()).unwrap();
        stream.write_u16(length).await.unwrap();
        stream.write_all(&answer).await.unwrap();
    };
    let (message, ()) = tokio::join!(ask(upstream(vec![address], LONG)), server);
    assert_eq!(message.answers[0].data.to_string(), "192.0.2.3");
}

#[tokio::test]
async fn without_an_upstream_the_question_is_refused() {
    let message = ask(upstream(Vec::new(), LONG)).await;
    assert_eq!(message.metadata.response_code, ResponseCode::Refused);
}

#[tokio::test]
async fn silence_of_all_is_a_failure_of_the_server() {
    let (silent, address) = udp().await;
    let message = ask(upstream(vec![address], Duration::from_millis(50))).await;
    assert_eq!(message.metadata.response_code, ResponseCode::ServFail);
    drop(silent);
}
